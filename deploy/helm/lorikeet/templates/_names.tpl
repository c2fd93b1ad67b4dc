{{- define "lorikeet.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "lorikeet.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* The labels that pick the pods of one component: (list $ "server"). They never change. */}}
{{- define "lorikeet.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "lorikeet.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "lorikeet.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "lorikeet.adminKeySecret" -}}
{{- .Values.adminKey.existingSecret | default (printf "%s-admin-key" (include "lorikeet.fullname" .)) -}}
{{- end -}}

{{/* The image of a component, (list $ .Values.server): by digest, else by tag, else this version's. */}}
{{- define "lorikeet.image" -}}
{{- $root := index . 0 -}}
{{- $it := index . 1 -}}
{{- if $it.image.digest -}}
{{- printf "%s@%s" $it.image.repository $it.image.digest -}}
{{- else -}}
{{- $flavor := ternary "gpu" "cpu" (gt (int $it.gpus) 0) -}}
{{- printf "%s:%s" $it.image.repository ($it.image.tag | default (printf "%s-%s" $root.Chart.AppVersion $flavor)) -}}
{{- end -}}
{{- end -}}
