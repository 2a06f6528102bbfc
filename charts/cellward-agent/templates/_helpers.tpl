{{/* Labels of everything the chart makes besides the plain files. */}}
{{- define "cellward-agent.labels" -}}
app.kubernetes.io/name: cellward-agent
app.kubernetes.io/part-of: cellward
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* One plain file, with the namespace of this release. Demo and tests load the very same files as they are. */}}
{{- define "cellward-agent.file" -}}
{{ .root.Files.Get .file | replace "cellward-system" .root.Release.Namespace }}
{{- end -}}

{{/* The agent's settings as YAML. */}}
{{- define "cellward-agent.settings" -}}
{{- $facts := dict "name" .Values.facts.name "environments" .Values.facts.environments "production" .Values.facts.production "region" .Values.facts.region "labels" .Values.facts.labels "projects" .Values.facts.projects -}}
{{- $settings := dict
  "realm" .Values.realm
  "state_dir" "/var/lib/cellward"
  "root_file" "/etc/cellward/trust/root.json"
  "enrolment_address" .Values.hub.enrolmentAddress
  "hub_ca_file" "/etc/cellward/trust/hub-ca.pem"
  "facts" $facts
  "namespace" .Release.Namespace
-}}
{{- if .Values.join.tokenSecret -}}
{{- $_ := set $settings "join_token_file" "/etc/cellward/join/token" -}}
{{- end -}}
{{ toYaml (mergeOverwrite $settings (deepCopy .Values.settings)) }}
{{- end -}}
