{{/* What no schema can say: values that do not go together. Each failure names its remedy. */}}
{{- define "lorikeet.check" -}}
{{- $registry := .Values.registry -}}
{{- $scaled := ne .Values.autoscaling.kind "none" -}}
{{- $pods := ternary (int .Values.autoscaling.maxReplicas) (int .Values.server.replicas) $scaled -}}
{{- $why := "" -}}
{{- if gt $pods 1 -}}
{{- $why = printf "%d server replicas" $pods -}}
{{- else if gt (int .Values.worker.replicas) 0 -}}
{{- $why = "a worker of its own" -}}
{{- end -}}
{{- if and $why (not $registry.database.existingSecret) -}}
{{- fail (printf "%s need one PostgreSQL: SQLite is a file of one pod. Put its URL into a Secret and name that in registry.database.existingSecret" $why) -}}
{{- end -}}
{{- if and $why (not $registry.store.url) -}}
{{- fail (printf "%s need a store that all pods reach: the data folder is a volume of one pod. Set registry.store.url, such as s3://bucket/lorikeet" $why) -}}
{{- end -}}
{{- if and (hasPrefix "file:" $registry.store.url) (not $registry.store.existingClaim) -}}
{{- fail (printf "registry.store.url is %s, and no volume is there: name a ReadWriteMany claim in registry.store.existingClaim, it is mounted at /store" $registry.store.url) -}}
{{- end -}}
{{- if and $registry.store.existingClaim (not (hasPrefix "file:///store" $registry.store.url)) -}}
{{- fail "registry.store.existingClaim is mounted at /store: set registry.store.url to file:///store" -}}
{{- end -}}
{{- if and .Values.base.existingClaim (not (hasPrefix "/models" .Values.base.model)) -}}
{{- fail "base.existingClaim is mounted at /models: name the model's folder there in base.model, such as /models/llama" -}}
{{- end -}}
{{- $name := include "lorikeet.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "no Service can be called %s: set fullnameOverride to small letters, digits and -, beginning with a letter" $name) -}}
{{- end -}}
{{- $settings := .Values.server.settings -}}
{{- $takes := mul (dig "tensor_parallel_size" 1 $settings) (dig "pipeline_parallel_size" 1 $settings) -}}
{{- $gpus := int .Values.server.gpus -}}
{{- if and $gpus (gt $takes $gpus) (ne (dig "distributed_executor_backend" "" $settings) "ray") -}}
{{- fail (printf "the engine takes %d GPUs (tensor_parallel_size × pipeline_parallel_size) and the pod has %d: set server.gpus to %d" $takes $gpus $takes) -}}
{{- end -}}
{{- if and (gt (int .Values.worker.replicas) 1) .Values.worker.persistence.enabled (not .Values.worker.persistence.existingClaim) (ne .Values.worker.persistence.accessMode "ReadWriteMany") -}}
{{- fail "several workers share one volume, so that a job goes on where another worker has left it: set worker.persistence.accessMode to ReadWriteMany, or worker.persistence.enabled to false" -}}
{{- end -}}
{{- if and $scaled (lt (int .Values.autoscaling.maxReplicas) (int .Values.autoscaling.minReplicas)) -}}
{{- fail "autoscaling.maxReplicas is below autoscaling.minReplicas" -}}
{{- end -}}
{{- if and (eq .Values.autoscaling.kind "keda") (not .Values.autoscaling.prometheusAddress) -}}
{{- fail "KEDA asks Prometheus: set autoscaling.prometheusAddress, such as http://prometheus.monitoring:9090" -}}
{{- end -}}
{{- if and .Values.gateway.enabled (not .Values.gateway.parentRefs) -}}
{{- fail "the route belongs to a Gateway: name it in gateway.parentRefs, such as [{name: inference-gateway}]" -}}
{{- end -}}
{{- if and .Values.gateway.enabled (not .Values.gateway.existingPool) (not .Values.gateway.endpointPicker.service) -}}
{{- fail "an InferencePool asks an endpoint picker: name its Service in gateway.endpointPicker.service, or the pool that came with it in gateway.existingPool" -}}
{{- end -}}
{{- end -}}
