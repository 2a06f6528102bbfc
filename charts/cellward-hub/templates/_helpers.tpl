{{/* What selects the hub's pods; it never changes. */}}
{{- define "cellward-hub.selector" -}}
app.kubernetes.io/name: cellward-hub
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: hub
{{- end -}}

{{/* Labels of everything the chart makes. */}}
{{- define "cellward-hub.labels" -}}
app.kubernetes.io/name: cellward-hub
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: cellward
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "cellward-hub.metadata" -}}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "cellward-hub.labels" . | nindent 2 }}
{{- end -}}

{{/* The image, from another registry where one is named. */}}
{{- define "cellward-hub.image" -}}
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

{{/* host:port that others use for a listener: what was given, or its Service. */}}
{{- define "cellward-hub.address" -}}
{{- $said := index .root.Values .name -}}
{{- if $said.address -}}
{{ $said.address }}
{{- else -}}
{{ printf "cellward-hub-%s.%s.svc:%d" .name .root.Release.Namespace (int $said.service.port) }}
{{- end -}}
{{- end -}}

{{/* The host of a host:port, an IPv6 address without brackets. */}}
{{- define "cellward-hub.host" -}}
{{ regexReplaceAll ":[0-9]+$" . "" | trimPrefix "[" | trimSuffix "]" }}
{{- end -}}

{{/* Whether the hub keeps nothing on a volume: database, keys and first token are elsewhere. */}}
{{- define "cellward-hub.stateless" -}}
{{- if and .Values.database.secret .Values.keys.secret .Values.adminToken.secret -}}true{{- end -}}
{{- end -}}

{{/* What must not be asked for together. */}}
{{- define "cellward-hub.check" -}}
{{- if and (gt (int .Values.replicas) 1) (not (include "cellward-hub.stateless" .)) -}}
{{- fail "replicas: more than one hub needs database.secret, keys.secret and adminToken.secret: they share one database, and have the same keys" -}}
{{- end -}}
{{- if .Values.backup.enabled -}}
{{- if not .Values.backup.secret -}}
{{- fail "backup.secret: the schedule asks through the API, with a token of its own (cellward tokens create --name backup --role admin) and the hub's CA" -}}
{{- end -}}
{{- if .Values.database.secret -}}
{{- fail "backup.enabled: a PostgreSQL database is backed up by its own tools" -}}
{{- end -}}
{{- end -}}
{{- range $name := list "enrolment" "link" -}}
{{- $said := index $.Values $name -}}
{{- if and $said.gateway.enabled (not $said.gateway.parentRefs) -}}
{{- fail (printf "%s.gateway.parentRefs: say which Gateway the route belongs to" $name) -}}
{{- end -}}
{{- if and $said.gateway.enabled (not $said.address) -}}
{{- fail (printf "%s.address: say where agents find the Gateway" $name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.api.ingress.enabled (not .Values.api.ingress.host) -}}
{{- fail "api.ingress.host: say the host of the admin API" -}}
{{- end -}}
{{- $watched := or .Values.metrics.serviceMonitor.enabled .Values.metrics.prometheusRule.enabled -}}
{{- if and $watched (not .Values.metrics.enabled) -}}
{{- fail "metrics.enabled: nothing can be scraped while the endpoint is closed" -}}
{{- end -}}
{{- end -}}

{{/* The hub's settings as YAML; what the chart decides is set last. */}}
{{- define "cellward-hub.settings" -}}
{{- $host := .Values.listenHost -}}
{{- $listen := dict "enrolment" (printf "%s:7441" $host) "link" (printf "%s:7442" $host) "api" (printf "%s:7443" $host) "metrics" "127.0.0.1:7444" -}}
{{- if .Values.metrics.enabled -}}
{{- $_ := set $listen "metrics" (printf "%s:7444" $host) -}}
{{- end -}}
{{- $advertise := dict -}}
{{- $names := list "localhost" "127.0.0.1" -}}
{{- range $name := list "enrolment" "link" "api" -}}
{{- $address := include "cellward-hub.address" (dict "root" $ "name" $name) -}}
{{- $_ := set $advertise $name $address -}}
{{- $service := printf "cellward-hub-%s.%s.svc" $name $.Release.Namespace -}}
{{- $names = concat $names (list (include "cellward-hub.host" $address) $service) -}}
{{- end -}}
{{- if .Values.api.ingress.enabled -}}
{{- $names = append $names .Values.api.ingress.host -}}
{{- end -}}
{{- $names = concat $names .Values.hostnames | uniq -}}
{{- $made := dict "data_dir" "/var/lib/cellward" "listen" $listen "advertise" $advertise "hostnames" $names -}}
{{- if .Values.keys.secret -}}
{{- $_ := set $made "passphrase_file" "/etc/cellward/passphrase/passphrase" -}}
{{- end -}}
{{- if .Values.adminToken.secret -}}
{{- $_ := set $made "admin_token_file" "/etc/cellward/admin/token" -}}
{{- end -}}
{{- if .Values.backup.enabled -}}
{{- $_ := set $made "backup_dir" "/var/lib/cellward-backups" -}}
{{- end -}}
{{- $tuned := dict -}}
{{- range $key, $value := .Values.settings -}}
{{- $_ := set $tuned $key $value -}}
{{- end -}}
{{ toYaml (merge $made $tuned) }}
{{- end -}}

{{/* The same for every pod of this chart: no rights beyond its own. */}}
{{- define "cellward-hub.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "cellward-hub.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
