{{- /* The parts that several templates share; `hde.` keeps them apart from those of other charts. */ -}}

{{- define "hde.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- /* Short enough that `-headless`, `-dashboard-exporter` and a pod's number can follow. */ -}}
{{- define "hde.fullname" -}}
{{- $name := include "hde.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 43 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 43 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 43 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "hde.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{- define "hde.selectorLabels" -}}
app.kubernetes.io/name: {{ include "hde.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "hde.labels" -}}
{{ include "hde.selectorLabels" . }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: {{ include "hde.name" . }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "hde.image" -}}
{{- $registry := default .Values.image.registry .Values.global.imageRegistry -}}
{{- if $registry }}{{ trimSuffix "/" $registry }}/{{ end -}}
{{ .Values.image.repository }}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ default .Chart.AppVersion .Values.image.tag }}{{ end -}}
{{- end -}}

{{- define "hde.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "hde.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "hde.scheme" -}}
{{- ternary "https" "http" .Values.web.tls -}}
{{- end -}}

{{- /* The name of the Secret with clouds.yaml; empty where there is none. */ -}}
{{- define "hde.openstackSecret" -}}
{{- if .Values.openstack.existingSecret -}}
{{- tpl .Values.openstack.existingSecret . -}}
{{- else if .Values.openstack.clouds -}}
{{- include "hde.fullname" . }}-openstack
{{- end -}}
{{- end -}}

{{- /* The name of the ConfigMap with config.yaml; empty where there is none. */ -}}
{{- define "hde.configMap" -}}
{{- if .Values.existingConfigMap -}}
{{- tpl .Values.existingConfigMap . -}}
{{- else if .Values.config -}}
{{- include "hde.fullname" . -}}
{{- end -}}
{{- end -}}

{{- /* What can't go together, or can't go at all; said before anything is installed. */ -}}
{{- define "hde.check" -}}
{{- $openstack := .Values.openstack -}}
{{- if and $openstack.existingSecret (or $openstack.clouds $openstack.files) -}}
{{- fail "openstack.existingSecret: the chart makes no Secret then; move openstack.clouds and openstack.files into yours" -}}
{{- end -}}
{{- if and $openstack.files (not $openstack.clouds) -}}
{{- fail "openstack.files: they lie beside the clouds.yaml of openstack.clouds, which is empty" -}}
{{- end -}}
{{- if not (or $openstack.existingSecret $openstack.clouds .Values.extraEnv .Values.extraEnvFrom .Values.extraVolumes) -}}
{{- fail "no credentials: set openstack.existingSecret (a Secret with the key clouds.yaml), openstack.clouds, or OS_* variables by extraEnvFrom" -}}
{{- end -}}
{{- if and .Values.existingConfigMap .Values.config -}}
{{- fail "existingConfigMap: the chart makes no ConfigMap then; move config into yours" -}}
{{- end -}}
{{- if hasKey .Values.config "shard" -}}
{{- fail "config.shard: the chart sets it by flags; set shards instead" -}}
{{- end -}}
{{- range $entry := .Values.config.clouds -}}
{{- if and $openstack.clouds $entry.cloud (not (hasKey $openstack.clouds $entry.cloud)) -}}
{{- fail (printf "config.clouds: %q is no entry of openstack.clouds, which has: %s" $entry.cloud (keys $openstack.clouds | sortAlpha | join ", ")) -}}
{{- end -}}
{{- end -}}
{{- if and (gt (len $openstack.clouds) 1) (not $openstack.cloud) (not .Values.config.clouds) (not .Values.existingConfigMap) -}}
{{- fail (printf "openstack.cloud: say which entry of openstack.clouds to watch, or list them in config.clouds: %s" (keys $openstack.clouds | sortAlpha | join ", ")) -}}
{{- end -}}
{{- if and $openstack.cloud $openstack.clouds (not (hasKey $openstack.clouds $openstack.cloud)) -}}
{{- fail (printf "openstack.cloud: %q is no entry of openstack.clouds, which has: %s" $openstack.cloud (keys $openstack.clouds | sortAlpha | join ", ")) -}}
{{- end -}}
{{- if and (not .Values.web.existingSecret) (or .Values.web.tls .Values.web.certificateSecret) -}}
{{- fail "web.tls and web.certificateSecret: TLS is set up by a web configuration; set web.existingSecret" -}}
{{- end -}}
{{- end -}}

{{- define "hde.args" -}}
- serve
- --web.listen-address=:{{ .Values.containerPort }}
- --web.telemetry-path={{ .Values.web.telemetryPath }}
{{- if .Values.web.existingSecret }}
- --web.config.file=/etc/heat-deployment-exporter/web/web-config.yaml
{{- end }}
{{- with .Values.web.externalUrl }}
- --web.external-url={{ tpl . $ }}
{{- end }}
{{- if .Values.web.enableLifecycle }}
- --web.enable-lifecycle
{{- end }}
{{- if include "hde.configMap" . }}
- --config.file=/etc/heat-deployment-exporter/config/config.yaml
{{- end }}
{{- if gt (int .Values.shards) 1 }}
- --shard.index=auto
- --shard.total={{ .Values.shards }}
{{- end }}
- --log.level={{ .Values.log.level }}
- --log.format={{ .Values.log.format }}
{{- with .Values.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* One probe: its path, and its times from the values. */ -}}
{{- define "hde.probe" -}}
{{- $values := .root.Values -}}
{{- if eq $values.web.probe "httpGet" -}}
httpGet:
  path: {{ .path }}
  port: metrics
  scheme: {{ include "hde.scheme" .root | upper }}
{{- else if eq $values.web.probe "exec" -}}
exec:
  command:
    - /opt/heat-deployment-exporter/bin/python
    - -I
    - /opt/heat-deployment-exporter/share/healthy.py
    - {{ include "hde.scheme" .root }}://127.0.0.1:{{ $values.containerPort }}{{ .path }}
{{- else -}}
tcpSocket:
  port: metrics
{{- end }}
{{ toYaml .times }}
{{- end -}}

{{- /* The same for a Deployment and a StatefulSet. */ -}}
{{- define "hde.pod" -}}
metadata:
  labels:
    {{- include "hde.labels" . | nindent 4 }}
    app.kubernetes.io/component: exporter
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- /* Other contents are other pods; those of yours that the chart can't see are not. */}}
  {{- $annotations := dict }}
  {{- if and .Values.config (not .Values.existingConfigMap) }}
  {{- $_ := set $annotations "checksum/config" (toYaml .Values.config | sha256sum) }}
  {{- end }}
  {{- if .Values.openstack.clouds }}
  {{- $_ := set $annotations "checksum/openstack" (dict "clouds" .Values.openstack.clouds "files" .Values.openstack.files | toYaml | sha256sum) }}
  {{- end }}
  {{- with merge (deepCopy .Values.podAnnotations) $annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "hde.serviceAccount" . }}
  automountServiceAccountToken: false
  {{- /* Variables for a Service of the exporter's own name would begin as its flags do. */}}
  enableServiceLinks: false
  {{- with concat .Values.global.imagePullSecrets .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- with .Values.extraInitContainers }}
  initContainers:
    {{- tpl (toYaml .) $ | nindent 4 }}
  {{- end }}
  containers:
    - name: exporter
      image: {{ include "hde.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        {{- include "hde.args" . | nindent 8 }}
      {{- $secret := include "hde.openstackSecret" . }}
      {{- if or $secret .Values.openstack.cloud .Values.extraEnv }}
      env:
        {{- if $secret }}
        - name: OS_CLIENT_CONFIG_FILE
          value: /etc/openstack/clouds.yaml
        {{- end }}
        {{- with .Values.openstack.cloud }}
        - name: OS_CLOUD
          value: {{ . | quote }}
        {{- end }}
        {{- with .Values.extraEnv }}
        {{- tpl (toYaml .) $ | nindent 8 }}
        {{- end }}
      {{- end }}
      {{- with .Values.extraEnvFrom }}
      envFrom:
        {{- tpl (toYaml .) $ | nindent 8 }}
      {{- end }}
      ports:
        - name: metrics
          containerPort: {{ .Values.containerPort }}
          protocol: TCP
      startupProbe:
        {{- include "hde.probe" (dict "root" . "path" "/-/healthy" "times" .Values.startupProbe) | nindent 8 }}
      livenessProbe:
        {{- include "hde.probe" (dict "root" . "path" "/-/healthy" "times" .Values.livenessProbe) | nindent 8 }}
      readinessProbe:
        {{- include "hde.probe" (dict "root" . "path" "/-/ready" "times" .Values.readinessProbe) | nindent 8 }}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      {{- if or $secret (include "hde.configMap" .) .Values.web.existingSecret .Values.extraVolumeMounts }}
      volumeMounts:
        {{- if $secret }}
        - name: openstack
          mountPath: /etc/openstack
          readOnly: true
        {{- end }}
        {{- if include "hde.configMap" . }}
        - name: config
          mountPath: /etc/heat-deployment-exporter/config
          readOnly: true
        {{- end }}
        {{- if .Values.web.existingSecret }}
        - name: web
          mountPath: /etc/heat-deployment-exporter/web
          readOnly: true
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- end }}
    {{- with .Values.extraContainers }}
    {{- tpl (toYaml .) $ | nindent 4 }}
    {{- end }}
  {{- if or $secret (include "hde.configMap" .) .Values.web.existingSecret .Values.extraVolumes }}
  volumes:
    {{- if $secret }}
    - name: openstack
      secret:
        secretName: {{ $secret }}
        defaultMode: 0440
    {{- end }}
    {{- with include "hde.configMap" . }}
    - name: config
      configMap:
        name: {{ . }}
    {{- end }}
    {{- with .Values.web.existingSecret }}
    - name: web
      projected:
        defaultMode: 0440
        sources:
          - secret:
              name: {{ tpl . $ }}
          {{- with $.Values.web.certificateSecret }}
          - secret:
              name: {{ tpl . $ }}
          {{- end }}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- tpl (toYaml .) $ | nindent 4 }}
    {{- end }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- tpl (toYaml .) $ | nindent 4 }}
  {{- end }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- range . }}
    {{- $selector := dict "labelSelector" (dict "matchLabels" (include "hde.podSelector" $ | fromYaml)) }}
    - {{ toYaml (merge (deepCopy .) (ternary dict $selector (hasKey . "labelSelector"))) | nindent 6 | trim }}
    {{- end }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.hostAliases }}
  hostAliases:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.dnsPolicy }}
  dnsPolicy: {{ . }}
  {{- end }}
  {{- with .Values.dnsConfig }}
  dnsConfig:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- /* The exporter's pods and no others: that of `helm test` has other labels. */ -}}
{{- define "hde.podSelector" -}}
{{ include "hde.selectorLabels" . }}
app.kubernetes.io/component: exporter
{{- end -}}

{{- /* Values of a kind of update without those that only a rolling one may have. */ -}}
{{- define "hde.update" -}}
{{- if eq .type "RollingUpdate" }}{{ toYaml . }}{{ else }}{{ pick . "type" | toYaml }}{{ end -}}
{{- end -}}
