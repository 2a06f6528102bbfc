{{/* Labels of everything the chart makes besides the plain files. */}}
{{- define "cellward-agent.labels" -}}
app.kubernetes.io/name: cellward-agent
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: cellward
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* The image, from another registry where one is named. */}}
{{- define "cellward-agent.image" -}}
{{- $parts := splitList "/" .Values.image.repository -}}
{{- $first := first $parts -}}
{{- $repository := .Values.image.repository -}}
{{- with .Values.image.registry -}}
{{- if and (gt (len $parts) 1) (or (contains "." $first) (contains ":" $first) (eq $first "localhost")) -}}
{{- $repository = rest $parts | join "/" -}}
{{- end -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) $repository -}}
{{- end -}}
{{ $repository }}@{{ .Values.image.digest }}
{{- end -}}

{{/* The prober's image: its own where one is named, else the agent's, which holds it too. */}}
{{- define "cellward-agent.proberImage" -}}
{{- if .Values.prober.repository -}}
{{ .Values.prober.repository }}@{{ required "prober.digest is needed with prober.repository" .Values.prober.digest }}
{{- else -}}
{{ include "cellward-agent.image" . }}
{{- end -}}
{{- end -}}

{{/* The same for the agent's pod and the one of `helm test`. */}}
{{- define "cellward-agent.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "cellward-agent.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Labels of what `helm test` makes: nothing selects it that selects the agent. */}}
{{- define "cellward-agent.testLabels" -}}
{{ include "cellward-agent.labels" . | replace "app.kubernetes.io/name: cellward-agent" "app.kubernetes.io/name: cellward-agent-test" }}
{{- end -}}

{{/* What every pod of `helm test` has beside its containers. */}}
{{- define "cellward-agent.testPod" -}}
restartPolicy: Never
automountServiceAccountToken: false
enableServiceLinks: false
activeDeadlineSeconds: 300
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "cellward-agent.podSecurity" . | nindent 2 }}
{{- end -}}

{{/* One plain file, with the namespace of this release. Demo and tests load the very same files as they are. */}}
{{- define "cellward-agent.file" -}}
{{ .root.Files.Get .file | replace "cellward-system" .root.Release.Namespace }}
{{- end -}}

{{/* Settings that an installation may tune; whatever else is in the agent's settings is trust, and has values of its own. */}}
{{- define "cellward-agent.tunables" -}}
opa_binary metrics_listen log_level isolation_probe spool intervals
{{- end -}}

{{/* The plain files with admission policies: installed, and given to the agent to compare with. Keep it complete. */}}
{{- define "cellward-agent.guardFiles" -}}
["30-fence.yaml", "40-cell-labels.yaml", "45-pod-security.yaml", "50-isolation-guard.yaml"]
{{- end -}}

{{/* The agent's settings as YAML. Values of trust are set last, so that nothing free can stand in their place. */}}
{{- define "cellward-agent.settings" -}}
{{- $tunables := splitList " " (include "cellward-agent.tunables" .) -}}
{{- range $key, $_ := .Values.settings -}}
{{- if not (has $key $tunables) -}}
{{- fail (printf "settings.%s is not for free settings: what the agent trusts is said by realm, root, hub, join and facts" $key) -}}
{{- end -}}
{{- end -}}
{{- $facts := dict "name" .Values.facts.name "environments" .Values.facts.environments "production" .Values.facts.production "region" .Values.facts.region "labels" .Values.facts.labels "projects" .Values.facts.projects -}}
{{- $trust := dict
  "realm" .Values.realm
  "state_dir" "/var/lib/cellward"
  "root_file" "/etc/cellward/trust/root.json"
  "enrolment_address" .Values.hub.enrolmentAddress
  "hub_ca_file" "/etc/cellward/trust/hub-ca.pem"
  "facts" $facts
  "namespace" .Release.Namespace
  "health_listen" (printf "%s:7445" .Values.health.listenHost)
  "prober_image" (include "cellward-agent.proberImage" .)
  "probe_outside" .Values.prober.outside
-}}
{{- /* An image of the version before does not know it, and takes no setting that it does not know. */}}
{{- if ne .Values.prober.startGate "none" -}}
{{- $_ := set $trust "start_gate" .Values.prober.startGate -}}
{{- end -}}
{{- if .Values.join.tokenSecret -}}
{{- $_ := set $trust "join_token_file" "/etc/cellward/join/token" -}}
{{- end -}}
{{ toYaml (merge $trust (deepCopy .Values.settings)) }}
{{- end -}}
