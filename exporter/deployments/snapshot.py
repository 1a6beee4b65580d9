"""What one successful refresh of one project found: counts, no records. Immutable; a new refresh makes a new one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby, zip_longest
from typing import Final, Literal, NamedTuple, TypeVar, get_args

STATUSES: Final = ("COMPLETE", "IN_PROGRESS", "FAILED")
ACTIONS: Final = ("CREATE", "UPDATE", "DELETE", "SUSPEND", "RESUME")
# So many values beside the documented ones keep their names, the others are together as OTHER.
UNDOCUMENTED_LIMIT: Final = 20
Table = Literal["ages", "state_ages", "codes", "code_distribution", "oldest_changes", "newest_changes"]
TABLES: Final[frozenset[Table]] = frozenset(get_args(Table))
"""The fields of a Snapshot that are of use to one family each, and filled for it alone."""
OTHER: Final = "other"
REASON_LENGTH: Final = 1000


class Exemplar(NamedTuple):
    """One deployment that stands for those counted with it: the value that it added, and when (Unix seconds)."""

    deployment_id: str
    value: float
    timestamp: float


class Tally(NamedTuple):
    """A counter's content."""

    size: int
    exemplar: Exemplar | None = None


class Distribution(NamedTuple):
    """A histogram's content: `cumulative[i]` values are at most `bounds[i]`, `size` in all, `total` is their sum.

    `exemplars` is empty, or has one (or None) for each bucket, the one for +Inf included.
    """

    bounds: tuple[float, ...]
    cumulative: tuple[int, ...]
    size: int
    total: float
    exemplars: tuple[Exemplar | None, ...] = ()


class ServerRow(NamedTuple):
    """How many deployments of one server have this status and action (never zero)."""

    server_id: str
    status: str
    action: str
    deployments: int


Problem = Literal["failed", "stuck"]


class ProblemRow(NamedTuple):
    """One failed or stuck deployment. Texts are label values, but for `reason`, which goes on no page of metrics."""

    problem: Problem
    deployment_id: str
    server_id: str
    config_id: str
    status: str
    action: str
    deploy_status_code: str
    """As a label; a missing code is ""."""
    changed: float
    """When it last changed, Unix seconds by the cloud's clock."""
    reason: str
    """Its `status_reason`, of at most REASON_LENGTH characters."""


class ConfigName(NamedTuple):
    """What a software config is called, and the group (the kind of hook) that it is for; both "" where unknown."""

    name: str
    group: str


class ConfigRow(NamedTuple):
    """How many deployments of the configs of one name have this status (never zero)."""

    config_name: str
    group: str
    status: str
    deployments: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One project's deployments, counted at one instant.

    Keys are label values: a missing status, action or server is "". Ages are seconds at `asked_at` (Unix seconds, the
    exporter's clock, when the listing was requested); change times are Unix seconds by the cloud's clock.
    """

    asked_at: float
    deployments: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By status and action."""
    stuck: Mapping[str, int] = field(default_factory=dict)
    """By action: IN_PROGRESS and unchanged for longer than the threshold."""
    servers: tuple[ServerRow, ...] = ()
    """The most troubled servers first, a server's rows together."""
    servers_withheld: int = 0
    """Rows of servers past the limit."""
    server_names: Mapping[str, str] = field(default_factory=dict)
    """By server id, for those of `servers` whose name is known."""
    problems: tuple[ProblemRow, ...] = ()
    """Failed ones first, newest first; then stuck ones, the longest unchanged first."""
    problems_withheld: int = 0
    """Failed and stuck deployments past the limit."""
    configs: tuple[ConfigRow, ...] = ()
    """The most troubled configs first, a config's rows together."""
    configs_withheld: int = 0
    """Rows of configs past the limit."""
    config_names: Mapping[str, ConfigName] = field(default_factory=dict)
    """By config id, for those of `problems` whose name is known."""
    codes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By status and exit code as its label shows it."""
    code_distribution: Mapping[str, Distribution] = field(default_factory=dict)
    """By action."""
    ages: Mapping[str, Distribution] = field(default_factory=dict)
    """By status: seconds since creation."""
    state_ages: Mapping[str, Distribution] = field(default_factory=dict)
    """By status: seconds since the last change."""
    oldest_changes: Mapping[tuple[str, str], float] = field(default_factory=dict)
    newest_changes: Mapping[tuple[str, str], float] = field(default_factory=dict)
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Unusable records by reason."""
    duplicates: int = 0
    """Records whose id had been met before."""
    response_bytes: int = 0

    @property
    def bounded(self) -> int:
        """How many series it has of the families that limits may cut: of servers, configs, problems, and names."""
        names = len(self.server_names) + len(self.config_names)
        return len(self.servers) + len(self.problems) + len(self.configs) + names

    def cut(self, series: int) -> Snapshot:
        """The same with at most so many series of those: problems go last, servers first, the least troubled ones.

        Rows of one server, or of one config, stay together, and with its name.
        """
        if self.bounded <= series:
            return self
        kinds = [[row for row in self.problems if row.problem == problem] for problem in ("failed", "stuck")]
        in_turn = [row for pair in zip_longest(*kinds) for row in pair if row is not None]
        kept, left = _fitting(
            in_turn, lambda row: row.deployment_id, lambda row: row.config_id, self.config_names, series
        )
        shown = {row.deployment_id for row in kept}
        problems = tuple(row for row in self.problems if row.deployment_id in shown)
        configs, left = _fitting(self.configs, lambda row: row[:2], lambda row: "", {}, left)
        servers, left = _fitting(
            self.servers, lambda row: row.server_id, lambda row: row.server_id, self.server_names, left
        )
        return replace(
            self,
            problems=problems,
            problems_withheld=self.problems_withheld + len(self.problems) - len(problems),
            config_names=_of({row.config_id for row in problems}, self.config_names),
            configs=tuple(configs),
            configs_withheld=self.configs_withheld + len(self.configs) - len(configs),
            servers=tuple(servers),
            servers_withheld=self.servers_withheld + len(self.servers) - len(servers),
            server_names=_of({row.server_id for row in servers}, self.server_names),
        )

    def withhold(self) -> Snapshot:
        """The same without series of servers; if it has none, without those of configs, and then of problems."""
        for series in (len(self.servers) + len(self.server_names), len(self.configs)):
            if series:
                return self.cut(self.bounded - series)
        return self.cut(0)

    @property
    def total(self) -> int:
        """All deployments counted."""
        return sum(self.deployments.values())


R = TypeVar("R")
N = TypeVar("N")


def _fitting(
    rows: Iterable[R], group: Callable[[R], object], name: Callable[[R], str], names: Mapping[str, object], series: int
) -> tuple[list[R], int]:
    """As many rows from the front as fit, those of a group together, each name once; and how many series are left."""
    kept: list[R] = []
    named: set[str] = set()
    for _, members in groupby(rows, group):
        together = list(members)
        new = {name(row) for row in together}.intersection(names) - named
        cost = len(together) + len(new)
        if cost > series:
            break
        series -= cost
        kept += together
        named |= new
    return kept, series


def _of(ids: Iterable[str], names: Mapping[str, N]) -> dict[str, N]:
    return {each: names[each] for each in ids if each in names}
