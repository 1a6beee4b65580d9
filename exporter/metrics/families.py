"""The table of metric families: the only place where a family's name, help, type, labels and samples are defined.

HELP texts, the documentation, filters and the tests all come from this table. Every family's samples are a pure
function of one state value; this module knows no I/O and no text format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final, Literal

from exporter.deployments.completions import FINAL, Ledger
from exporter.deployments.records import REJECTIONS
from exporter.deployments.snapshot import ACTIONS, STATUSES, Distribution, Snapshot, Table, Tally
from exporter.deployments.state import CONDITIONS, REMOVAL_REASONS, ExporterState, ProjectState

Kind = Literal["gauge", "counter", "histogram", "gaugehistogram"]
Scope = Literal["data", "project", "cloud", "exporter"]
Stability = Literal["STABLE", "ALPHA"]

Row = tuple[Any, ...]
"""Label values in the order of the family's labels, then the value: a number, a Tally, or a Distribution."""

SCOPE_LABELS: Final[dict[Scope, tuple[str, ...]]] = {
    "data": ("cloud", "project_id", "project"),
    "project": ("cloud", "project_id", "project"),
    "cloud": ("cloud",),
    "exporter": (),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One metric family. `labels` come on top of the scope's; `rows` gets the scope's state (data: a Snapshot)."""

    name: str
    kind: Kind
    scope: Scope
    help: str
    labels: tuple[str, ...] = ()
    rows: Callable[[Any], Iterable[Row]]
    stability: Stability = "STABLE"
    exemplars: bool = False
    """Whether samples may carry exemplars, which only OpenMetrics shows; a counter's values are Tallies then."""
    table: Table | None = None
    """The table of a Snapshot that is filled for this family alone; None: it has none that can be spared."""

    @property
    def all_labels(self) -> tuple[str, ...]:
        """Every label of a sample, the scope's first."""
        return SCOPE_LABELS[self.scope] + self.labels

    @property
    def unit(self) -> str:
        """The OpenMetrics unit, or ""."""
        base = self.name.removesuffix("_total")
        return next((unit for unit in ("seconds", "bytes") if base.endswith(f"_{unit}")), "")

    @property
    def help_text(self) -> str:
        """The HELP line's text, which begins with the stability."""
        return f"[{self.stability}] {self.help}"

    def sample_names(self) -> tuple[str, ...]:
        """The names that its samples have on a page."""
        match self.kind:
            case "histogram":
                return tuple(self.name + suffix for suffix in ("_bucket", "_count", "_sum"))
            case "gaugehistogram":
                return tuple(self.name + suffix for suffix in ("_bucket", "_gcount", "_gsum"))
            case _:
                return (self.name,)


def _deployments(snapshot: Snapshot) -> Iterator[Row]:
    counts = dict.fromkeys(product(STATUSES, ACTIONS), 0) | dict(sorted(snapshot.deployments.items()))
    for (status, action), count in counts.items():
        yield status, action, count


def _stuck(snapshot: Snapshot) -> Iterator[Row]:
    for action, count in sorted(snapshot.stuck.items()):
        if count and action not in ACTIONS:
            yield action, count
    for action in ACTIONS:
        yield action, snapshot.stuck.get(action, 0)


def _pairs(field: Callable[[Any], Mapping[tuple[str, ...], Any]]) -> Callable[[Any], Iterator[Row]]:
    """Rows of a table with several label values as its key, in order."""

    def rows(state: Any) -> Iterator[Row]:
        for key, value in sorted(field(state).items()):
            yield *key, value

    return rows


def _singles(field: Callable[[Any], Mapping[str, Any]]) -> Callable[[Any], Iterator[Row]]:
    """Rows of a table with one label value as its key, in order."""

    def rows(state: Any) -> Iterator[Row]:
        yield from sorted(field(state).items())

    return rows


def _filled(keys: Sequence[str], field: Callable[[Any], Mapping[Any, int]]) -> Callable[[Any], Iterator[Row]]:
    """Rows for these keys, zero where the table has none."""

    def rows(state: Any) -> Iterator[Row]:
        counts = field(state)
        for key in keys:
            yield key, counts.get(key, 0)

    return rows


def _one(field: Callable[[Any], float | Distribution | None]) -> Callable[[Any], Iterator[Row]]:
    """The one row of a family without labels of its own; none where the value is None."""

    def rows(state: Any) -> Iterator[Row]:
        if (value := field(state)) is not None:
            yield (value,)

    return rows


SERVERS: Final = "heat_server_software_deployments"
PROBLEMS: Final = "heat_software_deployment_problem_timestamp_seconds"
CONFIGS: Final = "heat_software_config_deployments"
CONFIG_NAMES: Final = "heat_software_config_info"
SERVER_NAMES: Final = "heat_server_info"
FINISHED: Final = "heat_software_deployment_finished_total"
DURATIONS: Final = "heat_software_deployment_duration_seconds"


def _withheld(state: ProjectState) -> Iterator[Row]:
    shown = state.shown or Snapshot(asked_at=0)
    yield SERVERS, shown.servers_withheld
    yield PROBLEMS, shown.problems_withheld
    yield CONFIGS, shown.configs_withheld


def _problems(snapshot: Snapshot) -> Iterator[Row]:
    for row in snapshot.problems:
        yield row[:-1]


def _config_names(snapshot: Snapshot) -> Iterator[Row]:
    for config_id, name in sorted(snapshot.config_names.items()):
        yield config_id, *name, 1


def _server_names(snapshot: Snapshot) -> Iterator[Row]:
    for server_id, name in sorted(snapshot.server_names.items()):
        yield server_id, name, 1


def _finished(state: ProjectState) -> Iterator[Row]:
    if state.ledger is not None:
        zeros: dict[tuple[str, str], Tally] = dict.fromkeys(product(FINAL, ACTIONS), Tally(0))
        for cell, tally in (zeros | dict(state.ledger.finished)).items():
            yield *cell, tally


def _durations(state: ProjectState) -> Mapping[Any, Distribution]:
    return (state.ledger or Ledger()).durations


def _build_info(state: ExporterState) -> Iterator[Row]:
    yield state.version, state.python_version, 1


FAMILIES: Final[tuple[Family, ...]] = (
    Family(
        name="heat_software_deployments",
        kind="gauge",
        scope="data",
        help="Software deployments in the latest listing, by status and action. Deployments whose signals wait in Swift"
        " or Zaqar can read IN_PROGRESS for longer than they are.",
        labels=("status", "action"),
        rows=_deployments,
    ),
    Family(
        name="heat_software_deployments_stuck",
        kind="gauge",
        scope="data",
        help="Software deployments that are IN_PROGRESS and unchanged for longer than thresholds.stuck_after.",
        labels=("action",),
        rows=_stuck,
    ),
    Family(
        name=SERVERS,
        kind="gauge",
        scope="data",
        help="Software deployments per server, non-zero only, for as many servers as limits.servers allows.",
        labels=("server_id", "status", "action"),
        rows=lambda snapshot: snapshot.servers,
    ),
    Family(
        name="heat_software_deployment_deploy_status_code",
        kind="gaugehistogram",
        scope="data",
        help="Distribution of the exit codes (deploy_status_code) of COMPLETE and FAILED deployments that have an"
        " integer one.",
        labels=("action",),
        rows=_singles(lambda snapshot: snapshot.code_distribution),
        table="code_distribution",
    ),
    Family(
        name="heat_software_deployment_status_codes",
        kind="gauge",
        scope="data",
        help="Software deployments by exact exit code: an integer, none, invalid, or other past 64 distinct ones."
        " An IN_PROGRESS deployment shows its last run's code.",
        labels=("status", "deploy_status_code"),
        rows=_pairs(lambda snapshot: snapshot.codes),
        table="codes",
    ),
    Family(
        name="heat_software_deployment_age_seconds",
        kind="gaugehistogram",
        scope="data",
        help="Distribution of the time since creation of the software deployments, when the listing was asked for.",
        labels=("status",),
        rows=_singles(lambda snapshot: snapshot.ages),
        table="ages",
    ),
    Family(
        name="heat_software_deployment_state_age_seconds",
        kind="gaugehistogram",
        scope="data",
        help="Distribution of the time since the last change (updated_time, else creation_time) of the software"
        " deployments, when the listing was asked for.",
        labels=("status",),
        rows=_singles(lambda snapshot: snapshot.state_ages),
        table="state_ages",
    ),
    Family(
        name="heat_software_deployment_oldest_change_timestamp_seconds",
        kind="gauge",
        scope="data",
        help="The earliest last change among the software deployments with this status and action, Unix time.",
        labels=("status", "action"),
        rows=_pairs(lambda snapshot: snapshot.oldest_changes),
        table="oldest_changes",
    ),
    Family(
        name="heat_software_deployment_newest_change_timestamp_seconds",
        kind="gauge",
        scope="data",
        help="The latest last change among the software deployments with this status and action, Unix time.",
        labels=("status", "action"),
        rows=_pairs(lambda snapshot: snapshot.newest_changes),
        table="newest_changes",
    ),
    Family(
        name=PROBLEMS,
        kind="gauge",
        scope="data",
        help="When each failed (newest first) or stuck (oldest change first) software deployment last changed, Unix"
        " time, for as many as limits.problems allows.",
        labels=("problem", "deployment_id", "server_id", "config_id", "status", "action", "deploy_status_code"),
        rows=_problems,
    ),
    Family(
        name=CONFIGS,
        kind="gauge",
        scope="data",
        help="Software deployments by the name and group of their software config, non-zero only, for as many names as"
        " limits.configs allows; both labels are empty where names are unknown.",
        labels=("config_name", "group", "status"),
        rows=lambda snapshot: snapshot.configs,
    ),
    Family(
        name=CONFIG_NAMES,
        kind="gauge",
        scope="data",
        help="1, labelled with the name and group of a software config, for those of the problem rows.",
        labels=("config_id", "config_name", "group"),
        rows=_config_names,
    ),
    Family(
        name=SERVER_NAMES,
        kind="gauge",
        scope="data",
        help="1, labelled with the name of a server, for servers that have series of their own.",
        labels=("server_id", "server_name"),
        rows=_server_names,
    ),
    Family(
        name=FINISHED,
        kind="counter",
        scope="project",
        help="Software deployments seen to reach COMPLETE or FAILED since the exporter's start.",
        labels=("status", "action"),
        rows=_finished,
        exemplars=True,
    ),
    Family(
        name=DURATIONS,
        kind="histogram",
        scope="project",
        help="How long the software deployments that were seen to finish took, where their start is known: CREATE, or"
        " an action that was seen IN_PROGRESS.",
        labels=("status", "action"),
        rows=_pairs(_durations),
        exemplars=True,
    ),
    Family(
        name="heat_up",
        kind="gauge",
        scope="project",
        help="1 where the project's last refresh succeeded, 0 where it failed.",
        rows=_one(lambda state: None if state.up is None else int(state.up)),
    ),
    Family(
        name="heat_last_refresh_success_timestamp_seconds",
        kind="gauge",
        scope="project",
        help="When the data shown was asked for, Unix time; 0 before the first success.",
        rows=_one(lambda state: state.snapshot.asked_at if state.snapshot else 0),
    ),
    Family(
        name="heat_refreshes_total",
        kind="counter",
        scope="project",
        help="Attempts to refresh the project.",
        rows=_one(lambda state: state.refreshes),
    ),
    Family(
        name="heat_refreshes_skipped_total",
        kind="counter",
        scope="project",
        help="Turns missed because the last refresh was still under way.",
        rows=_one(lambda state: state.skipped),
    ),
    Family(
        name="heat_refresh_failures_total",
        kind="counter",
        scope="project",
        help="Refreshes that failed, by the API that failed and the reason.",
        labels=("api", "reason"),
        rows=_pairs(lambda state: state.failures),
    ),
    Family(
        name="heat_last_refresh_duration_seconds",
        kind="gauge",
        scope="project",
        help="How long the last refresh took, waiting for its turn left out.",
        rows=_one(lambda state: state.duration),
    ),
    Family(
        name="heat_refresh_interval_seconds",
        kind="gauge",
        scope="project",
        help="The refresh interval in force, backoff left out.",
        rows=_one(lambda state: state.interval),
    ),
    Family(
        name="heat_refresh_response_bytes",
        kind="gauge",
        scope="project",
        help="Size of the latest listing, decompressed.",
        rows=_one(lambda state: state.snapshot.response_bytes if state.snapshot else None),
    ),
    Family(
        name="heat_records_rejected_total",
        kind="counter",
        scope="project",
        help="Records of listings that are no objects, have no usable id, or are too deeply nested.",
        labels=("reason",),
        rows=_filled(REJECTIONS, lambda state: state.rejected),
    ),
    Family(
        name="heat_duplicate_records_total",
        kind="counter",
        scope="project",
        help="Records whose deployment id was met again.",
        rows=_one(lambda state: state.duplicates),
    ),
    Family(
        name="heat_series_withheld",
        kind="gauge",
        scope="project",
        help="Series left out because of a limit, by family.",
        labels=("family",),
        rows=_withheld,
    ),
    Family(
        name="heat_refresh_duration_seconds",
        kind="histogram",
        scope="cloud",
        help="How long refreshes took, waiting for their turn left out.",
        rows=_one(lambda state: state.refresh_durations),
    ),
    Family(
        name="heat_discovery_up",
        kind="gauge",
        scope="cloud",
        help="1 where the last attempt to find (or resolve) the cloud's projects succeeded, 0 where it failed.",
        rows=_one(lambda state: None if state.discovery_up is None else int(state.discovery_up)),
    ),
    Family(
        name="heat_discovery_last_success_timestamp_seconds",
        kind="gauge",
        scope="cloud",
        help="When the cloud's projects were last found, Unix time; 0 before the first success.",
        rows=_one(lambda state: state.discovery_last_success),
    ),
    Family(
        name="heat_discovery_failures_total",
        kind="counter",
        scope="cloud",
        help="Attempts to find the cloud's projects that failed, by the API that failed and the reason.",
        labels=("api", "reason"),
        rows=_pairs(lambda state: state.discovery_failures),
    ),
    Family(
        name="heat_projects",
        kind="gauge",
        scope="cloud",
        help="Projects of the cloud by state: pending (no attempt has ended yet), fresh, failing (the data shown is"
        " of an earlier refresh) or stale (no data is shown).",
        labels=("state",),
        rows=_filled(CONDITIONS, lambda state: state.projects),
    ),
    Family(
        name="heat_projects_removed_total",
        kind="counter",
        scope="cloud",
        help="Projects no longer watched: gone (or access to them is), disabled, or taken out of the configuration.",
        labels=("reason",),
        rows=_filled(REMOVAL_REASONS, lambda state: state.removed),
    ),
    Family(
        name="heat_cloud_admin_token",
        kind="gauge",
        scope="cloud",
        help="Whether an administrator's token is in use (1), to which Heat lists the deployments of every project.",
        rows=_one(lambda state: int(state.admin_token)),
    ),
    Family(
        name="heat_api_requests_total",
        kind="counter",
        scope="cloud",
        help="Requests to the cloud's APIs by HTTP status code, or error where no answer came.",
        labels=("api", "code"),
        rows=_pairs(lambda state: state.requests),
    ),
    Family(
        name="heat_authentications_total",
        kind="counter",
        scope="cloud",
        help="Tokens asked for.",
        rows=_one(lambda state: state.authentications),
    ),
    Family(
        name="heat_exporter_build_info",
        kind="gauge",
        scope="exporter",
        help="1, labelled with the exporter's and Python's version.",
        labels=("version", "python_version"),
        rows=_build_info,
    ),
    Family(
        name="heat_exporter_config_hash",
        kind="gauge",
        scope="exporter",
        help="A hash of the effective configuration, equal for all shards of one configuration.",
        rows=_one(lambda state: state.config_hash),
    ),
    Family(
        name="heat_exporter_config_last_reload_successful",
        kind="gauge",
        scope="exporter",
        help="1 where the configuration was accepted when it was last read, 0 where the one before is still in force.",
        rows=_one(lambda state: int(state.reload_successful)),
    ),
    Family(
        name="heat_exporter_config_last_reload_success_timestamp_seconds",
        kind="gauge",
        scope="exporter",
        help="When the configuration in force was read, Unix time.",
        rows=_one(lambda state: state.reload_success_timestamp),
    ),
)


def chosen(include: Sequence[str], exclude: Sequence[str]) -> tuple[Family, ...]:
    """The families that fully anchored patterns select: all without `include`; exclude wins."""
    return tuple(
        family
        for family in FAMILIES
        if (not include or any(re.fullmatch(pattern, family.name) for pattern in include))
        and not any(re.fullmatch(pattern, family.name) for pattern in exclude)
    )


def named(names: Iterable[str], families: Iterable[Family]) -> frozenset[str]:
    """The families that names (of a family or of one of its samples) select; unknown names select nothing."""
    wanted = set(names)
    return frozenset(
        family.name
        for family in families
        if wanted.intersection((family.name, family.name.removesuffix("_total"), *family.sample_names()))
    )
