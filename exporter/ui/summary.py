"""The few facts about a project or a cloud that its row shows: on the landing page, in a terminal, in JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple, Self

from exporter.deployments.snapshot import Snapshot
from exporter.deployments.state import CONDITIONS, CloudState, Condition, ProjectKey, ProjectState

ADMINISTRATOR: Final = (
    "An administrator's token is in use, to which Heat lists the deployments of every project. They are counted for the"
    " cloud entry's own project only, and other projects are refused or not watched. To see each project, use a user"
    " with the role reader."
)
"""What `heat_cloud_admin_token` means, and the remedy."""
Discovery = Literal["pending", "found", "failed"]


class Counts(NamedTuple):
    """What a project's data counts."""

    deployments: int
    failed: int
    stuck: int
    in_progress: int


class ProjectSummary(NamedTuple):
    """One project at one moment."""

    key: ProjectKey
    name: str
    condition: Condition
    asked_at: float
    """When the latest data was asked for, Unix seconds, also where it is too old to be shown; 0 where there is none."""
    interval: float
    """The refresh interval in force, in seconds."""
    counts: Counts | None
    """None where no data is shown."""
    error: str


class CloudSummary(NamedTuple):
    """One cloud at one moment."""

    name: str
    discovery: Discovery
    found_at: float
    """When its projects were last found, Unix seconds; 0 before the first time."""
    admin_token: bool
    error: str


class Overview(NamedTuple):
    """All clouds and projects together."""

    clouds: tuple[tuple[CloudSummary, tuple[int, ...]], ...]
    """Each with its projects by condition, in the order of CONDITIONS."""
    conditions: tuple[int, ...]
    counts: Counts
    """Of the projects whose data is shown."""
    reload_successful: bool

    @classmethod
    def of(cls, clouds: Iterable[CloudSummary], projects: Iterable[ProjectSummary], *, reload_successful: bool) -> Self:
        """The overview of these."""
        by_cloud: Counter[tuple[str, Condition]] = Counter()
        total = Counts(0, 0, 0, 0)
        for project in projects:
            by_cloud[project.key.cloud, project.condition] += 1
            if project.counts is not None:
                total = Counts(*map(sum, zip(total, project.counts)))
        found = tuple((cloud, tuple(by_cloud[cloud.name, condition] for condition in CONDITIONS)) for cloud in clouds)
        conditions = tuple(map(sum, zip(*(each for _, each in found)))) if found else (0,) * len(CONDITIONS)
        return cls(found, conditions, total, reload_successful)


def counts(snapshot: Snapshot) -> Counts:
    """What a snapshot counts."""
    by_status = {"FAILED": 0, "IN_PROGRESS": 0}
    total = 0
    for (status, _), count in snapshot.deployments.items():
        total += count
        if status in by_status:
            by_status[status] += count
    return Counts(total, by_status["FAILED"], sum(snapshot.stuck.values()), by_status["IN_PROGRESS"])


def project_summary(state: ProjectState) -> ProjectSummary:
    """The facts of a project's state."""
    return ProjectSummary(
        state.key,
        state.name,
        state.condition,
        state.snapshot.asked_at if state.snapshot is not None else 0.0,
        state.interval,
        counts(state.shown) if state.shown is not None else None,
        state.error,
    )


def cloud_summary(state: CloudState) -> CloudSummary:
    """The facts of a cloud's state."""
    return CloudSummary(
        state.cloud,
        "pending" if state.discovery_up is None else "found" if state.discovery_up else "failed",
        state.discovery_last_success,
        state.admin_token,
        state.discovery_error,
    )
