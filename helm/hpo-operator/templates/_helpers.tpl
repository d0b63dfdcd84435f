{{- define "hpo-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* A release's name may have dots, a Service's may not. */}}
{{- define "hpo-operator.fullname" -}}
{{- $name := include "hpo-operator.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | replace "." "-" | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | replace "." "-" | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "hpo-operator.prometheusName" -}}
{{- printf "%s-prometheus" (include "hpo-operator.fullname" .) -}}
{{- end -}}

{{- define "hpo-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "hpo-operator.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Labels by which pods are selected: they must never change. */}}
{{- define "hpo-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "hpo-operator.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "hpo-operator.prometheusSelectorLabels" -}}
app.kubernetes.io/name: {{ include "hpo-operator.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: prometheus
{{- end -}}

{{- define "hpo-operator.ownLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ include "hpo-operator.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: hpo-operator
{{- end -}}

{{- define "hpo-operator.labels" -}}
{{- include "hpo-operator.labelsAnd" (list .) -}}
{{- end -}}

{{/* The labels of an object, of (list . more …): each key once, and of maps that have the same one the later goes before. */}}
{{- define "hpo-operator.labelsAnd" -}}
{{- $chart := first . -}}
{{- $labels := include "hpo-operator.ownLabels" $chart | fromYaml -}}
{{- range $more := prepend (rest .) $chart.Values.commonLabels -}}
{{- range $key, $value := $more -}}{{- $_ := set $labels $key $value -}}{{- end -}}
{{- end -}}
{{- toYaml $labels -}}
{{- end -}}

{{/* An image's whole name: of (dict "image" … "tag" the default tag, which the operator's own has). */}}
{{- define "hpo-operator.image" -}}
{{- $name := .image.repository -}}
{{- with .image.registry }}{{ $name = printf "%s/%s" . $name }}{{ end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .tag .image.tag | required "bundledPrometheus.image.tag and bundledPrometheus.image.digest are both empty; give one") -}}
{{- end -}}
{{- end -}}

{{/* What every container of the chart may do: what the restricted profile of pod security allows, and no more. */}}
{{- define "hpo-operator.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* On OpenShift each namespace has users of its own, and a pod that names another is refused. */}}
{{- define "hpo-operator.isOpenShift" -}}
{{- if .Capabilities.APIVersions.Has "security.openshift.io/v1" }}true{{ end -}}
{{- end -}}

{{- define "hpo-operator.podSecurity" -}}
runAsNonRoot: true
{{- if not (include "hpo-operator.isOpenShift" .) }}
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Where metrics are read; nothing where nowhere. */}}
{{- define "hpo-operator.prometheusUrl" -}}
{{- if .Values.prometheus.url -}}
{{- .Values.prometheus.url -}}
{{- else if .Values.bundledPrometheus.enabled -}}
http://{{ include "hpo-operator.prometheusName" . }}.{{ .Release.Namespace }}:9090
{{- end -}}
{{- end -}}

{{/* The name of a kind in the API's paths, as Kubernetes guesses it and hpo_operator.cluster.kinds does. */}}
{{- define "hpo-operator.plural" -}}
{{- $name := lower .kind -}}
{{- if .plural -}}{{ .plural }}
{{- else if hasSuffix "s" $name -}}{{ $name }}es
{{- else if hasSuffix "y" $name -}}{{ trimSuffix "y" $name }}ies
{{- else -}}{{ $name }}s
{{- end -}}
{{- end -}}

{{/* What the operator may do, as it stands in deploy/rbac.yaml, and the same as for Jobs for each kind that is allowed. */}}
{{- define "hpo-operator.rules" -}}
- apiGroups: [hpo.dev]
  resources: [studies]
  verbs: [get, list, watch]
- apiGroups: [hpo.dev]
  resources: [studies/status]
  verbs: [patch]
- apiGroups: [hpo.dev]
  resources: [studies/finalizers, trials/finalizers]
  verbs: [update]
- apiGroups: [hpo.dev]
  resources: [trials]
  verbs: [get, list, watch, create]
- apiGroups: [hpo.dev]
  resources: [trials/status]
  verbs: [patch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
- apiGroups: [""]
  resources: [persistentvolumeclaims] # checkpoints.volumeClaim: whether it is ReadWriteMany
  verbs: [get]
- apiGroups: [resource.k8s.io]
  resources: [resourceclaimtemplates] # how many GPUs a pod's claim asks for
  verbs: [get]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- range .Values.workloadKinds }}
- apiGroups: [{{ first (splitList "/" .apiVersion) }}]
  resources: [{{ include "hpo-operator.plural" . }}]
  verbs: [get, list, watch, create, delete]
{{- end }}
{{- end -}}

{{/* The labels of a Trial's pod that its series carry, `study_uid` for hpo.dev/study-uid: those that the operator sets and no others, so
that no pod names another namespace or pod than its own. */}}
{{- define "hpo-operator.trialLabels" -}}
__meta_kubernetes_pod_label_hpo_dev_(study|study_uid|trial|trial_number|bracket|rung|generation)
{{- end -}}

{{/* The series of the operator, which no Trial may export: it could raise alerts, or keep them silent. */}}
{{- define "hpo-operator.operatorSeries" -}}
hpo_(apiserver|build|checkpoint|gpu|gpus|proposal|queue|reconcile|studies|study|trials|watch)(|_.*)
{{- end -}}

{{/* The rules, whose alerts name their runbooks where these are served. */}}
{{- define "hpo-operator.alerts" -}}
{{- $rules := .Files.Get "files/alerts.yaml" }}
{{- with .Values.monitoring.rules.runbooks }}
{{- regexReplaceAll "docs/runbooks/(\\w+)\\.md" $rules (replace "ALERT" "${1}" .) }}
{{- else }}
{{- regexReplaceAll "(?m)^ *runbook_url:.*\\n" $rules "" }}
{{- end }}
{{- end -}}
