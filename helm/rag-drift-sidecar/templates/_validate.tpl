{{/*
What no schema can say: combinations that cannot work, told before anything is installed. The rules under `config` are
those of sidecar/settings.py that hang on two settings; a test holds both to the same answers.
*/}}

{{- define "rag-drift-sidecar.validate" -}}
{{- include "rag-drift-sidecar.validateMode" . -}}
{{- include "rag-drift-sidecar.validateModels" . -}}
{{- include "rag-drift-sidecar.validateMonitoring" . -}}
{{- include "rag-drift-sidecar.validateSecrets" . -}}
{{- include "rag-drift-sidecar.validateConfig" . -}}
{{- end -}}

{{- define "rag-drift-sidecar.validateMode" -}}
{{- if eq .Values.mode "sidecar" -}}
{{- if semverCompare "<1.29.0-0" .Capabilities.KubeVersion.Version -}}
{{- fail (printf "mode sidecar needs Kubernetes 1.29 or newer, where a sidecar is an init container with restartPolicy Always; this is %s: use mode deployment" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- if ne (int .Values.replicas) 1 -}}
{{- fail (printf "replicas is %d, but mode sidecar has no pods of its own: scale the parent's Deployment" (int .Values.replicas)) -}}
{{- end -}}
{{- range list "imagePullSecrets" "strategy" "podLabels" "podAnnotations" "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" "priorityClassName" -}}
{{- if get $.Values . -}}
{{- fail (printf "%s has no effect in mode sidecar: the pod is the parent chart's, set it there" .) -}}
{{- end -}}
{{- end -}}
{{- range list "serviceMonitor" "networkPolicy" "podDisruptionBudget" -}}
{{- if (get $.Values .).enabled -}}
{{- $instead := dict "serviceMonitor" "use podMonitor" "networkPolicy" "it would cut off the service as well, write it in the parent chart" "podDisruptionBudget" "write it in the parent chart" -}}
{{- fail (printf "%s.enabled needs mode deployment: in mode sidecar the pod is the parent chart's; %s" . (get $instead .)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "rag-drift-sidecar.validateModels" -}}
{{- $sources := list -}}
{{- with .Values.models -}}
{{- if .existingClaim }}{{ $sources = append $sources "models.existingClaim" }}{{ end -}}
{{- if .volume }}{{ $sources = append $sources "models.volume" }}{{ end -}}
{{- if .podVolume }}{{ $sources = append $sources "models.podVolume" }}{{ end -}}
{{- if .initCopy.image }}{{ $sources = append $sources "models.initCopy.image" }}{{ end -}}
{{- if gt (len $sources) 1 -}}
{{- fail (printf "%s: models can come from one place only, leave the others empty" (join " and " $sources)) -}}
{{- end -}}
{{- if and .podVolume (ne $.Values.mode "sidecar") -}}
{{- fail "models.podVolume names a volume of the parent's pod: it needs mode sidecar" -}}
{{- end -}}
{{- if and .subPath (not $sources) -}}
{{- fail "models.subPath is a folder in a volume, but there is none: set models.existingClaim, models.volume, models.podVolume or models.initCopy.image" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "rag-drift-sidecar.validateMonitoring" -}}
{{- if and .Values.serviceMonitor.enabled .Values.podMonitor.enabled -}}
{{- fail "serviceMonitor.enabled and podMonitor.enabled: the sidecar would be scraped twice and counted as two judges, choose one" -}}
{{- end -}}
{{- if and .Values.serviceMonitor.enabled (not .Values.service.enabled) -}}
{{- fail "serviceMonitor.enabled needs service.enabled; without a Service use podMonitor" -}}
{{- end -}}
{{- with .Values.podDisruptionBudget -}}
{{- if .enabled -}}
{{- $replicas := int $.Values.replicas -}}
{{- $least := ternary "" (toString .minAvailable) (kindIs "invalid" .minAvailable) -}}
{{- $most := ternary "" (toString .maxUnavailable) (kindIs "invalid" .maxUnavailable) -}}
{{- if eq (empty $least) (empty $most) -}}
{{- fail "podDisruptionBudget: give either maxUnavailable or minAvailable, and leave the other empty" -}}
{{- end -}}
{{- /* Kubernetes rounds a share of the pods up. */ -}}
{{- $stay := trimSuffix "%" $least | atoi -}}
{{- if hasSuffix "%" $least -}}
{{- $stay = div (add (mul $stay $replicas) 99) 100 -}}
{{- end -}}
{{- if or (regexMatch "^0+%?$" $most) (and $least $replicas (ge (int $stay) $replicas)) -}}
{{- fail (printf "podDisruptionBudget: with %d replicas it lets no pod go (a share is rounded up), and no node could ever be drained" $replicas) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "rag-drift-sidecar.validateSecrets" -}}
{{- $taken := dict -}}
{{- range (include "rag-drift-sidecar.secrets" . | fromJson).found -}}
{{- if .inline -}}
{{- if hasKey $taken .key -}}
{{- fail (printf "secrets.%s and secrets.%s: the chart makes one Secret of the values, and both have the key %s in it: give each a key of its own" (get $taken .key) .value .key) -}}
{{- end -}}
{{- $_ := set $taken .key .value -}}
{{- end -}}
{{- if get (get $.Values.config .section | default dict) .setting -}}
{{- fail (printf "config.%s.%s and secrets.%s name two files for one secret: leave one empty" .section .setting .value) -}}
{{- end -}}
{{- end -}}
{{- $url := include "rag-drift-sidecar.setting" (dict "root" . "path" "redis.url") | trimAll "\"" -}}
{{- if or (regexMatch "^[a-z]+://[^/@]*:[^/@]*@" $url) (regexMatch "[?&]password=" $url) -}}
{{- fail "config.redis.url holds a password, and a ConfigMap is no place for it: use secrets.redisPassword" -}}
{{- end -}}
{{- end -}}

{{- define "rag-drift-sidecar.validateConfig" -}}
{{- if eq (include "rag-drift-sidecar.setting" (dict "root" . "path" "http.port")) "0" -}}
{{- fail "config.http.port is 0, which takes a free one: Kubernetes must know it" -}}
{{- end -}}
{{- $host := include "rag-drift-sidecar.setting" (dict "root" . "path" "http.host") | trimAll "\"" -}}
{{- if or (hasPrefix "127." $host) (has $host (list "localhost" "::1")) -}}
{{- fail (printf "config.http.host is %s: Prometheus and the kubelet come from outside of the pod" $host) -}}
{{- end -}}
{{- if not .Values.config.deployment -}}
{{- $deployment := printf "%s.%s" .Release.Namespace (include "rag-drift-sidecar.fullname" .) -}}
{{- if gt (len $deployment) 63 -}}
{{- fail (printf "config.deployment: %s has more than 63 characters, set a shorter one" $deployment) -}}
{{- end -}}
{{- end -}}
{{- $block := include "rag-drift-sidecar.setting" (dict "root" . "path" "stream.block_seconds") | float64 -}}
{{- if lt (include "rag-drift-sidecar.setting" (dict "root" . "path" "stream.claim_idle_seconds") | float64) (mulf 2 $block) -}}
{{- fail "config.stream.claim_idle_seconds must be at least twice config.stream.block_seconds" -}}
{{- end -}}
{{- $signals := include "rag-drift-sidecar.setting" (dict "root" . "path" "judge.signals") | fromJsonArray -}}
{{- $frozen := include "rag-drift-sidecar.setting" (dict "root" . "path" "retrievers.frozen") -}}
{{- range $signals -}}
{{- if and (hasPrefix "frozen_" .) (eq $frozen "null") -}}
{{- fail (printf "config.judge.signals: %s needs config.retrievers.frozen" .) -}}
{{- end -}}
{{- end -}}
{{- if eq (first $signals) "sessions" -}}
{{- fail "config.judge.signals: sessions cannot be the first signal, it counts by the first one" -}}
{{- end -}}
{{- if ne (len (uniq $signals)) (len $signals) -}}
{{- fail "config.judge.signals: each signal once" -}}
{{- end -}}
{{- $tiers := include "rag-drift-sidecar.setting" (dict "root" . "path" "judge.tiers") | fromJsonArray -}}
{{- $effect := include "rag-drift-sidecar.setting" (dict "root" . "path" "judge.min_effect") | float64 -}}
{{- if not (and (le $effect (index $tiers 0 | float64)) (lt (index $tiers 0 | float64) (index $tiers 1 | float64)) (lt (index $tiers 1 | float64) 1.0)) -}}
{{- fail "config.judge.tiers must ascend, from at least config.judge.min_effect to below 1" -}}
{{- end -}}
{{- $last := -2.0 -}}
{{- range include "rag-drift-sidecar.setting" (dict "root" . "path" "canaries.thresholds") | fromJsonArray -}}
{{- if or (le (float64 .) $last) (lt (float64 .) -1.0) (gt (float64 .) 1.0) -}}
{{- fail "config.canaries.thresholds must be cosines from -1 to 1, ascending, each once" -}}
{{- end -}}
{{- $last = float64 . -}}
{{- end -}}
{{- if eq (include "rag-drift-sidecar.setting" (dict "root" . "path" "frozen.text")) "\"encrypted\"" -}}
{{- if not (or .Values.secrets.frozenKey.existingSecret .Values.secrets.frozenKey.value (dig "frozen" "key_file" "" .Values.config)) -}}
{{- fail "config.frozen.text is encrypted, which needs a key: set secrets.frozenKey" -}}
{{- end -}}
{{- end -}}
{{- end -}}
