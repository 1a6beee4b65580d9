// For those who build from mixins: the same rules and dashboards, with links to addresses of their own.
{
  _config+:: {
    // Where the folder docs/runbooks is served, and Grafana's root.
    runbooks: 'https://runbooks.example.com/heat-deployment-exporter',
    grafana: 'https://grafana.example.com',
  },

  local runbooks = std.strReplace(importstr 'rules.yml', 'https://runbooks.example.com/heat-deployment-exporter', $._config.runbooks),
  local rules = std.parseYaml(std.strReplace(runbooks, 'https://grafana.example.com', $._config.grafana)),
  local groups(kind) = { groups: [group for group in rules.groups if std.objectHas(group.rules[0], kind)] },

  prometheusRules+:: groups('record'),
  prometheusAlerts+:: groups('alert'),
  grafanaDashboards+:: {
    'heat-deployment-fleet.json': import '../grafana/dashboards/fleet.json',
    'heat-deployment-project.json': import '../grafana/dashboards/project.json',
    'heat-deployment-exporter.json': import '../grafana/dashboards/exporter.json',
  },
}
