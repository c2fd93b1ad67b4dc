{{/* What the server's and the worker's pods have in common. */}}

{{- define "lorikeet.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "lorikeet.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* The fields of a settings object as environment variables: (list "LORIKEET_SERVE_" $settings). */}}
{{- define "lorikeet.settingsEnv" -}}
{{- $prefix := index . 0 -}}
{{- range $name, $value := index . 1 }}
{{- if not (kindIs "invalid" $value) }}
- name: {{ printf "%s%s" $prefix (upper $name) }}
  value: {{ ternary $value (toJson $value) (kindIs "string" $value) | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Where the registry is, the same for every pod. */}}
{{- define "lorikeet.registryEnv" -}}
- name: LORIKEET_HOME
  value: /data
{{- with .Values.registry.database }}
{{- if .existingSecret }}
- name: LORIKEET_DATABASE_URL
  valueFrom:
    secretKeyRef: {name: {{ .existingSecret }}, key: {{ .key }}}
{{- end }}
{{- end }}
{{- with .Values.registry.store }}
{{- if .url }}
- name: LORIKEET_STORE_URL
  value: {{ .url | quote }}
{{- end }}
{{- if .cacheBytes }}
- name: LORIKEET_CACHE_BYTES
  value: {{ toJson .cacheBytes | quote }}
{{- end }}
{{- end }}
- name: LORIKEET_REQUIRE_CERTIFICATE
  value: {{ .Values.registry.requireCertificate | quote }}
{{- with .Values.base.huggingFaceToken }}
{{- if .existingSecret }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ .existingSecret }}, key: {{ .key }}}
{{- end }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "lorikeet.envFrom" -}}
{{- with .Values.registry.store.credentialsSecret }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
{{- end -}}

{{/* The root file system is read-only: these are all the folders that anything writes to. */}}
{{- define "lorikeet.volumeMounts" -}}
- {name: data, mountPath: /data}
- {name: tmp, mountPath: /tmp}
- {name: shm, mountPath: /dev/shm}
{{- if .Values.base.existingClaim }}
- {name: models, mountPath: /models, readOnly: true}
{{- end }}
{{- if .Values.registry.store.existingClaim }}
- {name: store, mountPath: /store}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Their volumes but for `data`: (list $ .Values.server). */}}
{{- define "lorikeet.volumes" -}}
{{- $root := index . 0 -}}
- name: tmp
  emptyDir: {}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ (index . 1).sharedMemory }}}
{{- with $root.Values.base.existingClaim }}
- name: models
  persistentVolumeClaim: {claimName: {{ . }}, readOnly: true}
{{- end }}
{{- with $root.Values.registry.store.existingClaim }}
- name: store
  persistentVolumeClaim: {claimName: {{ . }}}
{{- end }}
{{- with $root.Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "lorikeet.resources" -}}
{{- $resources := deepCopy .resources -}}
{{- if gt (int .gpus) 0 -}}
{{- $gpus := dict .gpuResource (int .gpus) -}}
{{- $resources = mergeOverwrite $resources (dict "limits" $gpus) (dict "requests" $gpus) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* Where the pods may run. */}}
{{- define "lorikeet.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- end -}}
