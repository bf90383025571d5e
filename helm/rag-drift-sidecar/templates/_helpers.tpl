{{/* Names, labels, and the settings with what the sidecar assumes for those that are left out. */}}

{{- define "rag-drift-sidecar.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 52 characters, so that a suffix of eleven still makes a valid name. */}}
{{- define "rag-drift-sidecar.fullname" -}}
{{- $name := include "rag-drift-sidecar.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "rag-drift-sidecar.selectorLabels" -}}
app.kubernetes.io/name: {{ include "rag-drift-sidecar.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "rag-drift-sidecar.labels" -}}
{{- include "rag-drift-sidecar.labelsWith" (dict "root" . "labels" dict) -}}
{{- end -}}

{{/*
The labels of an object that has some in its own values: a dict of `root` and those `labels`. They win over
`.Values.labels`, so that no key is there twice; the schema keeps the chart's own out of both.
*/}}
{{- define "rag-drift-sidecar.labelsWith" -}}
{{- with .root -}}
{{ include "rag-drift-sidecar.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- with merge dict (.labels | default dict) (.root.Values.labels | default dict) }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* What every pod with a sidecar carries in both modes; the PodMonitor selects by it, and names its job after it. */}}
{{- define "rag-drift-sidecar.podLabels" -}}
{{- include "rag-drift-sidecar.validate" . -}}
rag-drift.example/sidecar: {{ include "rag-drift-sidecar.fullname" . | quote }}
{{- end -}}

{{/* For the pods of a parent chart: they are replaced when the settings change. */}}
{{- define "rag-drift-sidecar.podAnnotations" -}}
checksum/rag-drift-config: {{ include "rag-drift-sidecar.config" . | sha256sum | quote }}
{{- end -}}

{{- define "rag-drift-sidecar.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "rag-drift-sidecar.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "rag-drift-sidecar.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* One effective setting as JSON, of a dict with `root` and the dotted `path`: the value given, else the sidecar's default. */}}
{{- define "rag-drift-sidecar.setting" -}}
{{- $value := .root.Values.config -}}
{{- $default := .root.Files.Get "files/settings-defaults.yaml" | fromYaml -}}
{{- range splitList "." .path -}}
{{- if kindIs "map" $value -}}
{{- $value = index $value . -}}
{{- end -}}
{{- $default = index $default . -}}
{{- end -}}
{{- ternary $default $value (kindIs "invalid" $value) | toJson -}}
{{- end -}}

{{/* The secrets: value, setting that names the file, file, whether an existing Secret or an inline value is given. */}}
{{- define "rag-drift-sidecar.secrets" -}}
{{- $files := dict "redisPassword" (list "redis" "password_file" "redis-password") "httpToken" (list "http" "token_file" "http-token") "frozenKey" (list "frozen" "key_file" "frozen-key") -}}
{{- $found := list -}}
{{- range $value, $of := $files -}}
{{- $given := get $.Values.secrets $value -}}
{{- if or $given.existingSecret $given.value -}}
{{- $name := $given.existingSecret | default (include "rag-drift-sidecar.fullname" $) -}}
{{- $found = append $found (dict "value" $value "section" (index $of 0) "setting" (index $of 1) "file" (index $of 2) "name" $name "key" $given.key "inline" (ternary $given.value "" (empty $given.existingSecret))) -}}
{{- end -}}
{{- end -}}
{{- dict "found" $found | toJson -}}
{{- end -}}

{{- define "rag-drift-sidecar.secretsFolder" -}}/etc/rag-drift-secrets{{- end -}}

{{/* The text of sidecar.yaml: the values, the files of the secrets, and a name that no other release has. */}}
{{- define "rag-drift-sidecar.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- if not $config.deployment -}}
{{- $_ := set $config "deployment" (printf "%s.%s" .Release.Namespace (include "rag-drift-sidecar.fullname" .)) -}}
{{- end -}}
{{- range (include "rag-drift-sidecar.secrets" . | fromJson).found -}}
{{- $section := get $config .section | default dict -}}
{{- $_ := set $section .setting (printf "%s/%s" (include "rag-drift-sidecar.secretsFolder" $) .file) -}}
{{- $_ := set $config .section $section -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}
