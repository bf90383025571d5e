{{/*
The entries of `initContainers[]` in the pod of a parent chart: the copy of the models if there is one, and the sidecar.

    initContainers:
      {{- include "rag-drift-sidecar.nativeSidecar" (index .Subcharts "rag-drift-sidecar") | nindent 8 }}

The service must not suffer from its monitor. Kubernetes counts a sidecar's readiness in that of the pod, and a container
that has ended is not ready. So there is no readiness probe, no startup probe (it would hold back the service), no
liveness probe (a restart is a moment without readiness), and the process is started again inside the container, which
stays.
*/}}

{{- define "rag-drift-sidecar.nativeSidecar" -}}
{{- include "rag-drift-sidecar.validate" . -}}
{{- if ne .Values.mode "sidecar" -}}
{{- fail (printf "%s: the parent chart includes the native sidecar, but mode is %q: set mode: sidecar" .Chart.Name .Values.mode) -}}
{{- end -}}
{{- with include "rag-drift-sidecar.modelCopy" . }}
{{- . }}
{{ end -}}
- restartPolicy: Always
  command: [/bin/sh, -c]
  args:
    - |
{{ include "rag-drift-sidecar.keepRunning" . | indent 6 }}
{{ include "rag-drift-sidecar.container" . | indent 2 }}
{{- end -}}

{{/*
`wait` comes back when a signal does, so it is repeated until the child is gone. A signal between two starts is looked at
again once there is a child.
*/}}
{{- define "rag-drift-sidecar.keepRunning" -}}
child= ending= code=0
trap 'ending=yes; [ -z "$child" ] || kill -TERM "$child"' TERM INT
trap '[ -z "$child" ] || kill -HUP "$child"' HUP
finish() {
  child=$!
  [ -z "$ending" ] || kill -TERM "$child"
  while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done
  child=
  [ -z "$ending" ] || exit "$code"
}
while :; do
  rag-drift run & finish
  echo "{\"event\": \"ended\", \"exit_code\": $code, \"restart_seconds\": {{ .Values.sidecar.restartSeconds }}, \"level\": \"error\"}" >&2
  sleep {{ .Values.sidecar.restartSeconds }} & finish
done
{{- end -}}
