{{/* Labels of everything that this chart makes. */}}
{{- define "outrigger.labels" -}}
app.kubernetes.io/name: outrigger
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: outrigger
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* Labels by which the control plane's pods are found. */}}
{{- define "outrigger.selector" -}}
app.kubernetes.io/name: outrigger
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: control-plane
{{- end }}

{{/* An image: name of the value. */}}
{{- define "outrigger.image" -}}
{{- $prefix := .root.Values.image.registry | trimSuffix "/" -}}
{{- $name := printf "%s:%s" .name (.root.Values.image.tag | default .root.Chart.AppVersion) -}}
{{- if $prefix }}{{ printf "%s/%s" $prefix $name }}{{ else }}{{ $name }}{{ end -}}
{{- end }}

{{/* The identity that the control plane proves to sidecars. */}}
{{- define "outrigger.identity" -}}
spiffe://{{ .Values.trustDomain }}/ns/{{ .Release.Namespace }}/sa/outrigger
{{- end }}

{{/* The injector's webhook configuration: one in each cluster for each namespace of a control plane. */}}
{{- define "outrigger.webhook" -}}
outrigger-injector-{{ .Release.Namespace }}
{{- end }}
