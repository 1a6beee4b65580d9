"""The table of metric families, against the contract."""

import re
from collections.abc import Iterable
from itertools import product
from typing import Any

import pytest

from exporter.deployments.snapshot import ACTIONS, STATUSES, Distribution, ServerRow, Snapshot
from exporter.deployments.state import REFRESH_BOUNDS, CloudState, ExporterState, ProjectKey, ProjectState
from exporter.metrics.families import FAMILIES, SCOPE_LABELS, Family, chosen, named

PROJECT = ("cloud", "project_id", "project")
CLOUD = ("cloud",)
CELL = ("status", "action")
CONTRACT: dict[str, tuple[str, tuple[str, ...]]] = {
    "heat_software_deployments": ("gauge", (*PROJECT, *CELL)),
    "heat_software_deployments_stuck": ("gauge", (*PROJECT, "action")),
    "heat_server_software_deployments": ("gauge", (*PROJECT, "server_id", *CELL)),
    "heat_software_deployment_deploy_status_code": ("gaugehistogram", (*PROJECT, "action")),
    "heat_software_deployment_status_codes": ("gauge", (*PROJECT, "status", "deploy_status_code")),
    "heat_software_deployment_age_seconds": ("gaugehistogram", (*PROJECT, "status")),
    "heat_software_deployment_state_age_seconds": ("gaugehistogram", (*PROJECT, "status")),
    "heat_software_deployment_oldest_change_timestamp_seconds": ("gauge", (*PROJECT, *CELL)),
    "heat_software_deployment_newest_change_timestamp_seconds": ("gauge", (*PROJECT, *CELL)),
    "heat_software_deployment_finished_total": ("counter", (*PROJECT, *CELL)),
    "heat_software_deployment_duration_seconds": ("histogram", (*PROJECT, *CELL)),
    "heat_software_deployment_problem_timestamp_seconds": (
        "gauge",
        (*PROJECT, "problem", "deployment_id", "server_id", "config_id", *CELL, "deploy_status_code"),
    ),
    "heat_software_config_deployments": ("gauge", (*PROJECT, "config_name", "group", "status")),
    "heat_software_config_info": ("gauge", (*PROJECT, "config_id", "config_name", "group")),
    "heat_server_info": ("gauge", (*PROJECT, "server_id", "server_name")),
    "heat_up": ("gauge", PROJECT),
    "heat_last_refresh_success_timestamp_seconds": ("gauge", PROJECT),
    "heat_refreshes_total": ("counter", PROJECT),
    "heat_refreshes_skipped_total": ("counter", PROJECT),
    "heat_refresh_failures_total": ("counter", (*PROJECT, "api", "reason")),
    "heat_last_refresh_duration_seconds": ("gauge", PROJECT),
    "heat_refresh_interval_seconds": ("gauge", PROJECT),
    "heat_refresh_response_bytes": ("gauge", PROJECT),
    "heat_records_rejected_total": ("counter", (*PROJECT, "reason")),
    "heat_duplicate_records_total": ("counter", PROJECT),
    "heat_series_withheld": ("gauge", (*PROJECT, "family")),
    "heat_refresh_duration_seconds": ("histogram", CLOUD),
    "heat_discovery_up": ("gauge", CLOUD),
    "heat_discovery_last_success_timestamp_seconds": ("gauge", CLOUD),
    "heat_discovery_failures_total": ("counter", (*CLOUD, "api", "reason")),
    "heat_projects": ("gauge", (*CLOUD, "state")),
    "heat_projects_removed_total": ("counter", (*CLOUD, "reason")),
    "heat_cloud_admin_token": ("gauge", CLOUD),
    "heat_api_requests_total": ("counter", (*CLOUD, "api", "code")),
    "heat_authentications_total": ("counter", CLOUD),
    "heat_exporter_build_info": ("gauge", ("version", "python_version")),
    "heat_exporter_config_hash": ("gauge", ()),
    "heat_exporter_config_last_reload_successful": ("gauge", ()),
    "heat_exporter_config_last_reload_success_timestamp_seconds": ("gauge", ()),
}
"""Every family of the contract: its type, and all of its labels."""
REASONS = ("not_object", "id", "too_deep")
BY_NAME = {family.name: family for family in FAMILIES}
KEY = ProjectKey("prod", "p1")


def test_nothing_of_the_contract_is_missing() -> None:
    """Every family of the contract exists, and no other."""
    assert set(CONTRACT) == set(BY_NAME)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_each_family_is_as_the_contract_says(family: Family) -> None:
    """A family's name, type and labels are those of the contract."""
    kind, labels = CONTRACT[family.name]
    assert family.kind == kind
    # Which labels there are is the contract's, their order is ours.
    assert sorted(family.all_labels) == sorted(labels)
    assert family.all_labels[: len(SCOPE_LABELS[family.scope])] == SCOPE_LABELS[family.scope]


def test_names_are_unique() -> None:
    """No two families, and no two families' samples, have the same name."""
    assert len(BY_NAME) == len(FAMILIES)
    samples = [name for family in FAMILIES for name in family.sample_names()]
    assert len(samples) == len(set(samples))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_names_follow_the_conventions(family: Family) -> None:
    """Names and labels are what Prometheus allows, counters and they alone end in _total, labels don't repeat."""
    assert re.fullmatch(r"heat_[a-z]+(_[a-z]+)*", family.name)
    assert (family.kind == "counter") == family.name.endswith("_total")
    assert not family.name.endswith(("_bucket", "_count", "_sum", "_gcount", "_gsum", "_created"))
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", label) for label in family.all_labels)
    assert len(set(family.all_labels)) == len(family.all_labels)
    assert not {"le", "job", "instance"} & set(family.all_labels)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_each_family_explains_itself(family: Family) -> None:
    """HELP begins with the stability and is whole sentences on one line."""
    assert re.fullmatch(r"\[(STABLE|ALPHA)\] [A-Z0-9].*\.", family.help_text)
    assert family.help_text == f"[{family.stability}] {family.help}"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_units_end_the_name(family: Family) -> None:
    """A family has the unit that its name ends in, and a histogram's samples have its suffixes."""
    base = family.name.removesuffix("_total")
    assert family.unit == ("seconds" if base.endswith("seconds") else "bytes" if base.endswith("bytes") else "")
    suffixes = {"histogram": ("_bucket", "_count", "_sum"), "gaugehistogram": ("_bucket", "_gcount", "_gsum")}
    assert family.sample_names() == tuple(family.name + suffix for suffix in suffixes.get(family.kind, ("",)))


# --- filters ---


@pytest.mark.parametrize(
    ("include", "exclude", "names"),
    [
        ([], [], set(BY_NAME)),
        (["heat_up"], [], {"heat_up"}),
        (["heat_u"], [], set()),
        (["eat_up"], [], set()),
        ([".*"], [".*"], set()),
        ([], [".*"], set()),
        (["heat_up|heat_projects"], [], {"heat_up", "heat_projects"}),
        (["heat_refreshes.*"], [".*skipped.*"], {"heat_refreshes_total"}),
        ([], ["heat_.*"], set()),
        (["heat_up", "heat_projects"], ["heat_up"], {"heat_projects"}),
        (["a|heat_up", "heat_up|b"], [], {"heat_up"}),
    ],
)
def test_chosen(include: list[str], exclude: list[str], names: set[str]) -> None:
    """Patterns are fully anchored, all is chosen without an include, and exclude wins."""
    found = chosen(include, exclude)
    assert {family.name for family in found} == names
    assert list(found) == [family for family in FAMILIES if family.name in names]


AGES = "heat_software_deployment_age_seconds"


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([], set()),
        (["heat_up"], {"heat_up"}),
        ([AGES], {AGES}),
        ([f"{AGES}_bucket"], {AGES}),
        ([f"{AGES}_gcount"], {AGES}),
        ([f"{AGES}_gsum", f"{AGES}_bucket", "heat_up"], {AGES, "heat_up"}),
        ([f"{AGES}_count"], set()),
        (["heat_refresh_duration_seconds_count"], {"heat_refresh_duration_seconds"}),
        (["heat_refreshes_total"], {"heat_refreshes_total"}),
        (["heat_refreshes"], {"heat_refreshes_total"}),
        (["heat_", "up", "HEAT_UP", "", "heat_up ", ".*"], set()),
        (["unknown", "heat_up", "heat_up"], {"heat_up"}),
    ],
)
def test_named(names: list[str], found: set[str]) -> None:
    """A family's or a sample's name selects the whole family; an unknown one selects nothing."""
    assert named(names, FAMILIES) == found
    assert named(names, chosen(["heat_up"], [])) == found & {"heat_up"}


# --- rows: this state in, these rows out ---


def rows(name: str, state: Any) -> list[tuple[Any, ...]]:
    """A family's rows of a state."""
    return [tuple(row) for row in BY_NAME[name].rows(state)]


def project(**values: Any) -> ProjectState:
    """A project's state."""
    return ProjectState(key=KEY, name="one", interval=60.0, **values)


def zero(*keys: Iterable[str], **found: int) -> list[tuple[Any, ...]]:
    """Rows of these keys, zero but for what was found."""
    return [(*key, found.get("_".join(key), 0)) for key in product(*keys)]


def test_documented_cells_are_filled() -> None:
    """Every documented status and action has a row, zero or not; others only where there is something."""
    found = rows("heat_software_deployments", Snapshot(asked_at=0, deployments={("FAILED", "DELETE"): 2, ("X", ""): 1}))
    assert sorted(found) == sorted([*zero(STATUSES, ACTIONS, FAILED_DELETE=2), ("X", "", 1)])
    found = rows("heat_software_deployments_stuck", Snapshot(asked_at=0, stuck={"CREATE": 3, "X": 1, "Y": 0}))
    assert sorted(found) == sorted([*zero(ACTIONS, CREATE=3), ("X", 1)])


def test_an_empty_snapshot_has_the_filled_rows_alone() -> None:
    """A project without deployments shows zeros for the documented cells, and no other row of data."""
    empty = {family.name: list(family.rows(Snapshot(asked_at=0))) for family in FAMILIES if family.scope == "data"}
    filled = {"heat_software_deployments", "heat_software_deployments_stuck"}
    assert {name for name, found in empty.items() if found} == filled


def test_rows_of_a_snapshot() -> None:
    """What was counted is shown under its labels."""
    distribution = Distribution((1.0,), (1,), 2, 7.0)
    row = ServerRow("s", "FAILED", "CREATE", 2)
    snapshot = Snapshot(
        asked_at=0,
        servers=(row,),
        codes={("FAILED", "2"): 1, ("FAILED", "137"): 1},
        code_distribution={"CREATE": distribution},
        ages={"FAILED": distribution},
        state_ages={"FAILED": distribution},
        oldest_changes={("FAILED", "CREATE"): 1.5},
        newest_changes={("FAILED", "CREATE"): 2.5},
    )
    assert rows("heat_server_software_deployments", snapshot) == [("s", "FAILED", "CREATE", 2)]
    codes = rows("heat_software_deployment_status_codes", snapshot)
    assert sorted(codes) == [("FAILED", "137", 1), ("FAILED", "2", 1)]
    assert rows("heat_software_deployment_deploy_status_code", snapshot) == [("CREATE", distribution)]
    assert rows("heat_software_deployment_age_seconds", snapshot) == [("FAILED", distribution)]
    assert rows("heat_software_deployment_state_age_seconds", snapshot) == [("FAILED", distribution)]
    oldest, newest = (f"heat_software_deployment_{which}_change_timestamp_seconds" for which in ("oldest", "newest"))
    assert rows(oldest, snapshot) == [("FAILED", "CREATE", 1.5)]
    assert rows(newest, snapshot) == [("FAILED", "CREATE", 2.5)]


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("heat_up", [], [(1,)]),
        ("heat_last_refresh_success_timestamp_seconds", [(0,)], [(1000.5,)]),
        ("heat_refreshes_total", [(0,)], [(7,)]),
        ("heat_refreshes_skipped_total", [(0,)], [(2,)]),
        ("heat_refresh_failures_total", [], [("identity", "dns", 1), ("orchestration", "timeout", 4)]),
        ("heat_last_refresh_duration_seconds", [], [(1.5,)]),
        ("heat_refresh_interval_seconds", [(60.0,)], [(60.0,)]),
        ("heat_refresh_response_bytes", [], [(512,)]),
        ("heat_records_rejected_total", zero(REASONS), zero(REASONS, id=3)),
        ("heat_duplicate_records_total", [(0,)], [(9,)]),
    ],
)  # fmt: skip
def test_rows_of_a_project(name: str, before: list[Any], after: list[Any]) -> None:
    """A project's figures before its first attempt, and after some refreshes."""
    later = project(
        up=True,
        snapshot=Snapshot(asked_at=1000.5, response_bytes=512),
        refreshes=7,
        skipped=2,
        failures={("orchestration", "timeout"): 4, ("identity", "dns"): 1},
        duration=1.5,
        rejected={"id": 3},
        duplicates=9,
    )
    assert sorted(rows(name, project())) == sorted(before)
    assert sorted(rows(name, later)) == sorted(after)


def test_withheld_series_are_counted() -> None:
    """What a limit left out is counted by family; without data there is nothing to leave out."""
    some = project(up=True, snapshot=Snapshot(asked_at=0, servers_withheld=6))
    assert ("heat_server_software_deployments", 0) in rows("heat_series_withheld", project())
    assert ("heat_server_software_deployments", 6) in rows("heat_series_withheld", some)


def test_a_failure_shows() -> None:
    """A project whose refresh failed is not up."""
    assert rows("heat_up", project(up=False)) == [(0,)]


def test_a_success_timestamp_outlives_the_data() -> None:
    """When the data was asked for stays on the page after the data is withdrawn."""
    stale = project(up=False, stale=True, snapshot=Snapshot(asked_at=1000.5, servers_withheld=6))
    assert rows("heat_last_refresh_success_timestamp_seconds", stale) == [(1000.5,)]
    assert ("heat_server_software_deployments", 0) in rows("heat_series_withheld", stale)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("heat_discovery_up", [], [(0,)]),
        ("heat_discovery_last_success_timestamp_seconds", [(0.0,)], [(5.5,)]),
        ("heat_discovery_failures_total", [], [("identity", "auth", 2)]),
        (
            "heat_projects",
            [("pending", 0), ("fresh", 0), ("failing", 0), ("stale", 0)],
            [("pending", 0), ("fresh", 4), ("failing", 1), ("stale", 0)],
        ),
        (
            "heat_projects_removed_total",
            [("gone", 0), ("disabled", 0), ("config", 0)],
            [("gone", 1), ("disabled", 0), ("config", 0)],
        ),
        ("heat_cloud_admin_token", [(0,)], [(1,)]),
        ("heat_api_requests_total", [], [("identity", "401", 2), ("orchestration", "200", 9)]),
        ("heat_authentications_total", [(0,)], [(3,)]),
    ],
)
def test_rows_of_a_cloud(name: str, before: list[Any], after: list[Any]) -> None:
    """A cloud's figures before the first discovery, and later."""
    later = CloudState(
        cloud="prod",
        discovery_up=False,
        discovery_last_success=5.5,
        discovery_failures={("identity", "auth"): 2},
        projects={"fresh": 4, "failing": 1},
        removed={"gone": 1},
        admin_token=True,
        requests={("orchestration", "200"): 9, ("identity", "401"): 2},
        authentications=3,
    )
    assert rows(name, CloudState(cloud="prod")) == before
    assert rows(name, later) == after


def test_refresh_durations_have_the_contracts_bounds() -> None:
    """The histogram of refreshes has the bounds of the contract, and is there from the beginning."""
    assert REFRESH_BOUNDS == (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
    assert rows("heat_refresh_duration_seconds", CloudState(cloud="prod")) == [
        (Distribution(REFRESH_BOUNDS, (0,) * 10, 0, 0.0),)
    ]


def test_rows_of_the_exporter() -> None:
    """The exporter says which it is, and which configuration it has."""
    state = ExporterState(version="1.2", python_version="3.11.7", config_hash=17.0)
    assert rows("heat_exporter_build_info", state) == [("1.2", "3.11.7", 1)]
    assert rows("heat_exporter_config_hash", state) == [(17.0,)]
