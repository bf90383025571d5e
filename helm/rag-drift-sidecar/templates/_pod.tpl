{{/*
The container and its volumes, for both modes. The names of volumes begin with `rag-drift-`, since in a parent's pod
they stand beside others.
*/}}

{{- define "rag-drift-sidecar.container" -}}
name: rag-drift
image: {{ include "rag-drift-sidecar.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
ports:
  - name: rag-drift
    containerPort: {{ include "rag-drift-sidecar.setting" (dict "root" . "path" "http.port") }}
    protocol: TCP
env:
{{- $taken := list }}
{{- range .Values.extraEnv }}{{ $taken = append $taken .name }}{{ end }}
{{- /* Nothing is fetched at the start; the home is a folder that can be written to. */}}
{{- range $name, $value := dict "HF_HUB_OFFLINE" "1" "HOME" "/tmp" "RAG_DRIFT_CONFIG" "/etc/rag-drift/sidecar.yaml" }}
{{- if not (has $name $taken) }}
  - name: {{ $name }}
    value: {{ $value | quote }}
{{- end }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . | indent 2 }}
{{- end }}
{{- with .Values.extraEnvFrom }}
envFrom:
{{ toYaml . | indent 2 }}
{{- end }}
resources:
{{ toYaml .Values.resources | indent 2 }}
securityContext:
{{ toYaml .Values.securityContext | indent 2 }}
volumeMounts:
  - name: rag-drift-config
    mountPath: /etc/rag-drift
    readOnly: true
{{- if (include "rag-drift-sidecar.secrets" . | fromJson).found }}
  - name: rag-drift-secrets
    mountPath: {{ include "rag-drift-sidecar.secretsFolder" . }}
    readOnly: true
{{- end }}
{{- with include "rag-drift-sidecar.modelVolume" . }}
  - name: {{ . | quote }}
    mountPath: {{ $.Values.models.mountPath | quote }}
    {{- with $.Values.models.subPath }}
    subPath: {{ . | quote }}
    {{- end }}
    readOnly: true
{{- end }}
  - name: rag-drift-tmp
    mountPath: /tmp
{{- with .Values.extraVolumeMounts }}
{{ toYaml . | indent 2 }}
{{- end }}
{{- end -}}

{{/* The name of the volume with the models, empty where the image carries them. */}}
{{- define "rag-drift-sidecar.modelVolume" -}}
{{- with .Values.models -}}
{{- if .podVolume -}}
{{ .podVolume }}
{{- else if or .existingClaim .volume .initCopy.image -}}
rag-drift-models
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The container that copies the models, as a list of one or none. */}}
{{- define "rag-drift-sidecar.modelCopy" -}}
{{- with .Values.models.initCopy -}}
{{- if .image -}}
- name: rag-drift-models
  image: {{ .image | quote }}
  imagePullPolicy: {{ .pullPolicy }}
  command: [cp, -R, {{ printf "%s/." (trimSuffix "/" .source) | quote }}, /rag-drift-models/]
  resources:
{{ toYaml .resources | indent 4 }}
  securityContext:
{{ toYaml $.Values.securityContext | indent 4 }}
  volumeMounts:
    - name: rag-drift-models
      mountPath: /rag-drift-models
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "rag-drift-sidecar.volumes" -}}
- name: rag-drift-config
  configMap:
    name: {{ include "rag-drift-sidecar.fullname" . | quote }}
{{- with (include "rag-drift-sidecar.secrets" . | fromJson).found }}
- name: rag-drift-secrets
  projected:
    defaultMode: 292
    sources:
    {{- range . }}
      - secret:
          name: {{ .name | quote }}
          items:
            - key: {{ .key | quote }}
              path: {{ .file }}
          {{- if eq $.Values.mode "sidecar" }}
          optional: true
          {{- end }}
    {{- end }}
{{- end }}
{{- with .Values.models }}
{{- if .existingClaim }}
- name: rag-drift-models
  {{- /*
  Read-only for the whole pod, not only in the mount: the release pipeline owns what is in the claim, and Kubernetes
  gives what it mounts for writing to the pod's fsGroup, file by file.
  */}}
  persistentVolumeClaim:
    claimName: {{ .existingClaim | quote }}
    readOnly: true
{{- else if .volume }}
- name: rag-drift-models
{{ toYaml .volume | indent 2 }}
{{- else if .initCopy.image }}
- name: rag-drift-models
  emptyDir: {}
{{- end }}
{{- end }}
- name: rag-drift-tmp
  {{- /* A pod whose volume is over its limit is evicted: not the service's for what the sidecar does. */}}
  {{- if eq .Values.mode "sidecar" }}
  emptyDir: {}
  {{- else }}
  emptyDir:
    sizeLimit: 64Mi
  {{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
