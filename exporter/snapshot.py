"""What one successful refresh of one project found: counts, no records. Immutable; a new refresh makes a new one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple

STATUSES: Final = ("COMPLETE", "IN_PROGRESS", "FAILED")
ACTIONS: Final = ("CREATE", "UPDATE", "DELETE", "SUSPEND", "RESUME")
REASON_LENGTH: Final = 1000


class Distribution(NamedTuple):
    """A histogram's content: `cumulative[i]` values are at most `bounds[i]`, `size` in all, `total` is their sum."""

    bounds: tuple[float, ...]
    cumulative: tuple[int, ...]
    size: int
    total: float


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

    def cut(self, rows: int) -> Snapshot:
        """The same with at most so many rows of servers: the most troubled servers', each whole."""
        if len(self.servers) <= rows:
            return self
        end = rows
        while end and self.servers[end].server_id == self.servers[end - 1].server_id:
            end -= 1
        return replace(
            self, servers=self.servers[:end], servers_withheld=self.servers_withheld + len(self.servers) - end
        )

    @property
    def total(self) -> int:
        """All deployments counted."""
        return sum(self.deployments.values())
