"""What is known of each project, cloud and the exporter itself at one moment: values, replaced whole at each change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple, TypeVar

from exporter.common.errors import Api, Reason, RefreshError
from exporter.deployments.completions import Ledger
from exporter.deployments.snapshot import Distribution, Snapshot

Condition = Literal["pending", "fresh", "failing", "stale"]
CONDITIONS: Final[tuple[Condition, ...]] = ("pending", "fresh", "failing", "stale")
RemovalReason = Literal["gone", "disabled", "config"]
REMOVAL_REASONS: Final[tuple[RemovalReason, ...]] = ("gone", "disabled", "config")
REFRESH_BOUNDS: Final = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
NO_REFRESHES: Final = Distribution(REFRESH_BOUNDS, (0,) * len(REFRESH_BOUNDS), 0, 0.0)

K = TypeVar("K")
FailureCounts = Mapping[tuple[Api, Reason], int]


class ProjectKey(NamedTuple):
    """What tells one project from another: the same id in two clouds is two projects."""

    cloud: str
    project_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectState:
    """One project: its latest data, and the exporter's own figures about fetching it.

    Counters only ever grow while the project is configured. `interval` is the one in force, in seconds.
    """

    key: ProjectKey
    name: str
    interval: float
    snapshot: Snapshot | None = None
    stale: bool = False
    """The data is too old to be shown."""
    up: bool | None = None
    """Whether the last attempt succeeded; None before the first."""
    error: str = ""
    """What the last failure said, while it lasts."""
    refreshes: int = 0
    skipped: int = 0
    failures: FailureCounts = field(default_factory=dict)
    duration: float | None = None
    rejected: Mapping[str, int] = field(default_factory=dict)
    duplicates: int = 0
    ledger: Ledger | None = None
    """What was seen to finish; None before the first listing, or where nobody looks for it."""

    @property
    def shown(self) -> Snapshot | None:
        """The data as far as it may be shown."""
        return None if self.stale else self.snapshot

    @property
    def condition(self) -> Condition:
        """The state that `heat_projects` counts this project under."""
        if self.up is None:
            return "pending"
        if self.shown is None:
            return "stale"
        return "fresh" if self.up else "failing"

    def succeeded(
        self, snapshot: Snapshot, *, duration: float, interval: float, ledger: Ledger | None = None
    ) -> ProjectState:
        """After a refresh that succeeded in `duration` seconds."""
        return replace(
            self,
            snapshot=snapshot,
            stale=False,
            up=True,
            error="",
            refreshes=self.refreshes + 1,
            duration=duration,
            interval=interval,
            rejected=added(self.rejected, snapshot.rejected),
            duplicates=self.duplicates + snapshot.duplicates,
            ledger=ledger,
        )

    def failed(self, error: RefreshError, *, duration: float, interval: float) -> ProjectState:
        """After a refresh that failed: the data stays as it was."""
        return replace(
            self,
            up=False,
            error=f"{error.reason}: {error}",
            refreshes=self.refreshes + 1,
            failures=added(self.failures, {(error.api, error.reason): 1}),
            duration=duration,
            interval=interval,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudState:
    """One cloud: finding its projects, and the requests made to it."""

    cloud: str
    discovery_up: bool | None = None
    discovery_last_success: float = 0.0
    discovery_error: str = ""
    discovery_failures: FailureCounts = field(default_factory=dict)
    projects: Mapping[Condition, int] = field(default_factory=dict)
    removed: Mapping[RemovalReason, int] = field(default_factory=dict)
    admin_token: bool = False
    requests: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By API (`identity`, `orchestration`, `compute`) and HTTP status, or `error`."""
    authentications: int = 0
    refresh_durations: Distribution = NO_REFRESHES


@dataclass(frozen=True, slots=True, kw_only=True)
class ExporterState:
    """The exporter itself."""

    version: str
    python_version: str
    config_hash: float
    reload_successful: bool = True
    """Whether the configuration was accepted when it was last read."""
    reload_success_timestamp: float = 0.0
    """When it last was, Unix time."""


def added(counts: Mapping[K, int], more: Mapping[K, int]) -> dict[K, int]:
    """The sum of two tables of counts."""
    return dict(counts) | {key: counts.get(key, 0) + count for key, count in more.items()}


def observed(distribution: Distribution, value: float) -> Distribution:
    """A distribution with one more value in it."""
    return Distribution(
        distribution.bounds,
        tuple(
            count + (value <= bound) for bound, count in zip(distribution.bounds, distribution.cumulative, strict=True)
        ),
        distribution.size + 1,
        distribution.total + value,
    )
