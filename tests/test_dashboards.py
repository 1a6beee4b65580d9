"""The dashboards as files: made from the code, complete, within the rules of grafana/dashboard-linter."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

import grafana
from tests.programs.prometheus import Promtool
from tests.queries import (
    ALL,
    DASHBOARDS,
    ROOT,
    SAMPLES,
    Target,
    complaints,
    expand,
    names,
    panels,
    targets,
    variables,
)

BOARDS = pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS)
TARGETS = list(targets())
TIMES = {"__rate_interval": "5m", "__interval": "1m", "__range": "1h"}
MULTIPLE: dict[str, str | list[str]] = {
    "job": ["heat", "heat-probes"],
    "instance": ["a.example:19180", "b.example:19180"],
    "cloud": "prod (eu-de)",
    "project": "web",
    "server": ALL,
}

UNITS = {"none", "short", "percentunit", "s", "bytes", "cpm", "reqps", "bool_yes_no"}
"""Those of the linter's list of Grafana's units that are used here."""


def selectors(expr: str) -> Iterator[tuple[str, str]]:
    """Every selector of an expression: its metric and its matchers."""
    yield from re.findall(r"([a-z_][a-z0-9_]*)\{([^}]*)\}", expr)


# -- the files


def test_the_files_are_what_the_code_makes():
    """The committed JSON is what `python -m grafana` writes, byte by byte, and nothing else is in the folder."""
    assert {path: path.read_text() for path in grafana.FOLDER.iterdir()} == grafana.files()


def test_the_page_has_every_panel():
    """docs/grafana.md says of every panel what it answers, in the panel's own words."""
    assert grafana.PAGE.read_text() == grafana.page()


def test_addresses_stay():
    """The uids are those that alerts and links know."""
    assert {board["uid"] for board in DASHBOARDS.values()} == {
        "heat-deployment-fleet",
        "heat-deployment-project",
        "heat-deployment-exporter",
    }
    linked = set(re.findall(r"/d/([\w-]+)", json.dumps(list(DASHBOARDS.values()))))
    assert linked == {"heat-deployment-project"}


@BOARDS
def test_a_dashboard_is_complete(dashboard: dict[str, Any]):
    """It says what it is for, leads to the others with its variables and time, and shows alerts as annotations."""
    assert dashboard["description"]
    assert dashboard["tags"] == ["heat-deployment"]
    (link,) = dashboard["links"]
    assert (link["type"], link["tags"], link["includeVars"], link["keepTime"]) == (
        "dashboards",
        ["heat-deployment"],
        True,
        True,
    )
    (annotation,) = dashboard["annotations"]["list"]
    assert annotation["expr"].startswith("ALERTS{")
    assert annotation["datasource"]["uid"] == "${datasource}"
    assert set(variables(dashboard)) >= {"job", "instance", "cloud"}


@BOARDS
def test_panels_have_a_place_and_a_number(dashboard: dict[str, Any]):
    """Panels fill lines of the grid, none lies over another, and each has a number and a title of its own."""
    cells: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        area = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & area, panel["title"]
        assert all(x < 24 for x, _ in area)
        cells |= area
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    titles = [panel["title"] for panel in panels(dashboard)]
    assert len(set(titles)) == len(titles)
    assert all(re.fullmatch(r".{16,}[.?]", panel["description"]) for panel in panels(dashboard))


@BOARDS
def test_variables_are_chained(dashboard: dict[str, Any]):
    """Each variable offers only what fits to those before it."""
    before: list[str] = []
    for name, variable in variables(dashboard).items():
        used = re.findall(r"\$(\w+)", variable["query"])
        assert used == before, name
        before.append(name)


def test_the_project_dashboard_leads_from_cloud_to_server():
    """Cloud, then project, then server; one cloud, one project, any servers."""
    found = variables(DASHBOARDS["project"])
    assert list(found)[-3:] == ["cloud", "project", "server"]
    assert [bool(found[name]["multi"]) for name in ("cloud", "project", "server")] == [False, False, True]


def test_exemplars_where_there_are_any():
    """Panels of how long and how often deployments finish ask for exemplars, no others do."""
    with_exemplars = {target.name for target in TARGETS if target.target["exemplar"]}
    expected = {
        target.name
        for target in TARGETS
        if target.panel["title"] in ("Time to finish", "Finishing rate") and target.panel["type"] == "timeseries"
    }
    assert len(expected) > 4
    assert with_exemplars == expected


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_queries_name_families_that_exist(target: Target):
    """Every metric name is the exporter's, or one that Prometheus makes at each scrape, or a client library's."""
    assert names(target.expr) <= SAMPLES
    others = {name for name, _ in selectors(target.expr) if not name.startswith("heat_")}
    assert others <= {
        "up",
        "scrape_duration_seconds",
        "scrape_samples_scraped",
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
        "process_open_fds",
    }


def test_provisioning():
    """Grafana is given a data source and the folder of dashboards, and nobody changes either in its pages."""
    folder = ROOT / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert (source["type"], source["editable"]) == ("prometheus", False)
    (provider,) = yaml.safe_load((folder / "dashboards" / "heat-deployment.yaml").read_text())["providers"]
    assert (provider["type"], provider["allowUiUpdates"], provider["disableDeletion"]) == ("file", False, True)
    assert provider["options"]["path"] in (ROOT / "docs" / "grafana.md").read_text()


# -- the rules of grafana/dashboard-linter, without an exception (those about Loki have nothing to say here)


@BOARDS
def test_template_datasource_rule(dashboard: dict[str, Any]):
    """The data source is a variable."""
    (found,) = variables(dashboard, "datasource").values()
    assert (found["name"], found["label"], found["query"]) == ("datasource", "Data source", "prometheus")


@BOARDS
@pytest.mark.parametrize("name", ["job", "instance"])
def test_template_job_and_instance_rules(dashboard: dict[str, Any], name: str):
    """Job and instance are variables from the chosen data source, with several values or all."""
    found = variables(dashboard)[name]
    assert found["datasource"]["uid"] == "${datasource}"
    assert (found["label"], found["multi"], found["allValue"]) == (name.title(), True, ".+")


@BOARDS
def test_template_label_promql_rule(dashboard: dict[str, Any], promtool: Promtool):
    """Variables ask for the values of a label, in PromQL that can be parsed."""
    expressions = []
    for variable in variables(dashboard).values():
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", expand(variable["query"], dashboard, MULTIPLE, TIMES))
        assert match, variable["query"]
        expressions.append(match[1])
    assert names(" ".join(expressions)) <= SAMPLES
    assert not complaints(promtool, expressions)


@BOARDS
def test_template_on_time_change_reload_rule(dashboard: dict[str, Any]):
    """Variables are asked for again when the time range changes."""
    assert {variable["refresh"] for variable in variables(dashboard).values()} == {2}


@BOARDS
def test_uneditable_dashboard(dashboard: dict[str, Any]):
    """Nobody changes it by accident."""
    assert dashboard["editable"] is False


@BOARDS
def test_panel_rules(dashboard: dict[str, Any]):
    """Each panel has a title, a description, a unit, queries, and the data source chosen above, as these have."""
    for panel in panels(dashboard):
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["targets"]
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        config = panel["fieldConfig"]
        units = {config["defaults"]["unit"]} | {
            each["value"] for override in config["overrides"] for each in override["properties"] if each["id"] == "unit"
        }
        assert units <= UNITS, panel["title"]
        assert config["defaults"]["thresholds"]["steps"]


@BOARDS
def test_target_promql_rule(dashboard: dict[str, Any], promtool: Promtool):
    """Every query is PromQL, whether one, several or all values of a variable are chosen."""
    everything = {name: ALL if variable["multi"] else "x" for name, variable in variables(dashboard).items()}
    for values in (MULTIPLE, everything):
        expressions = [
            expand(target["expr"], dashboard, values, TIMES)
            for panel in panels(dashboard)
            for target in panel["targets"]
        ]
        assert not complaints(promtool, expressions)
        assert not any("$" in expression for expression in expressions)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_target_job_and_instance_rules(target: Target):
    """Every selector goes by the chosen jobs and instances; and by the clouds, where the family has that label."""
    bare = re.sub(r'"[^"]*"', '""', re.sub(r"\{[^}]*\}", "", target.expr))
    assert len(re.findall(r"\b(?:heat|process|scrape)_\w+|\bup\b", bare)) == len(list(selectors(target.expr)))
    for name, matchers in selectors(target.expr):
        assert 'job=~"$job"' in matchers
        assert 'instance=~"$instance"' in matchers
        has_cloud = name.startswith("heat_") and (
            not name.startswith("heat_exporter_") and "last_over_time(" + name not in target.expr
        )
        assert ('cloud=~"$cloud"' in matchers) == has_cloud


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_target_rate_interval_and_counter_rules(target: Target):
    """Rates go over $__rate_interval, and a counter is never shown as it is."""
    for function, window in re.findall(r"\b(i?rate|increase|last_over_time)\([^()]*\[([^\]]*)\]\)", target.expr):
        assert window == "$__rate_interval" or (function not in ("rate", "irate") and window == "$__range")
    counters = re.findall(r"\w+_total\{", target.expr)
    counted = re.findall(r"\b(?:rate|irate|increase)\(\w+_total\{[^}]*\}\[", target.expr)
    assert len(counters) == len(counted)
