{{/* One endpoint of a ServiceMonitor or PodMonitor, of its values and its port. */}}
{{- define "rag-drift-sidecar.endpoint" -}}
- port: {{ .port }}
  path: /metrics
  {{- with .values.interval }}
  interval: {{ . }}
  {{- end }}
  {{- with .values.scrapeTimeout }}
  scrapeTimeout: {{ . }}
  {{- end }}
  {{- with .values.relabelings }}
  relabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .values.metricRelabelings }}
  metricRelabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
