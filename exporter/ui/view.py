"""What a visitor of the landing page wants to see of it: a filter and an order, as its address says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Self
from urllib.parse import urlencode

from exporter.deployments.state import CONDITIONS
from exporter.ui.summary import ProjectSummary

# The more trouble, the higher.
SEVERITY: Final[Mapping[str, int]] = {"fresh": 0, "pending": 1, "failing": 2, "stale": 3}


class Column(NamedTuple):
    """One column of the table of projects, and what it is sorted by."""

    name: str
    title: str
    falling: bool
    """Whether the highest values come first when it is first asked for."""
    value: Callable[[ProjectSummary], float] | Callable[[ProjectSummary], str]


def _count(index: int) -> Callable[[ProjectSummary], float]:
    # Projects without data come below those that have none of something.
    return lambda summary: summary.counts[index] if summary.counts is not None else -1


COLUMNS: Final = (
    Column("cloud", "Cloud", False, lambda summary: summary.key.cloud.lower()),
    Column("project", "Project", False, lambda summary: summary.name.lower()),
    Column("state", "State", True, lambda summary: SEVERITY[summary.condition]),
    Column("age", "Data age", True, lambda summary: -summary.asked_at),
    Column("deployments", "Deployments", True, _count(0)),
    Column("failed", "Failed", True, _count(1)),
    Column("stuck", "Stuck", True, _count(2)),
    Column("in_progress", "In progress", True, _count(3)),
    Column("error", "Last error", True, lambda summary: summary.error.lower()),
)
_BY_NAME: Final = {column.name: column for column in COLUMNS}


class View(NamedTuple):
    """A filter and an order of the projects."""

    text: str = ""
    """Part of the cloud's or project's name, the id or the error."""
    cloud: str = ""
    state: str = ""
    sort: str = "cloud"
    falling: bool = False

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Self:
        """The view that an address asks for; what it can't mean is left out."""
        sort = query.get("sort", "")
        sort = sort if sort in _BY_NAME else "cloud"
        order = query.get("order", "")
        state = query.get("state", "")
        return cls(
            text=query.get("q", "").strip(),
            cloud=query.get("cloud", ""),
            state=state if state in CONDITIONS else "",
            sort=sort,
            falling=order == "desc" if order in ("asc", "desc") else _BY_NAME[sort].falling,
        )

    @property
    def whole(self) -> bool:
        """Whether no project is filtered out."""
        return not (self.text or self.cloud or self.state)

    def query(self) -> str:
        """The address's query, without what goes without saying; View.of reads it."""
        parts = {"q": self.text, "cloud": self.cloud, "state": self.state}
        if (self.sort, self.falling) != ("cloud", False):
            parts |= {"sort": self.sort, "order": "desc" if self.falling else "asc"}
        return urlencode({name: value for name, value in parts.items() if value}, errors="replace")

    def sorted_by(self, column: Column) -> Self:
        """The view after a click on a column's heading: its order, turned round where it is in force already."""
        falling = not self.falling if column.name == self.sort else column.falling
        return self._replace(sort=column.name, falling=falling)

    def shows(self, summary: ProjectSummary) -> bool:
        """Whether the filter lets a project through."""
        if (self.cloud and summary.key.cloud != self.cloud) or (self.state and summary.condition != self.state):
            return False
        if not self.text:
            return True
        wanted = self.text.lower()
        return any(wanted in each.lower() for each in (summary.name, *summary.key, summary.condition, summary.error))

    def order(self, summaries: list[ProjectSummary]) -> list[ProjectSummary]:
        """The projects in the order asked for; ties by cloud, name and id, whichever way the order goes."""
        value = _BY_NAME[self.sort].value
        result = sorted(summaries, key=lambda summary: (summary.key.cloud.lower(), summary.name.lower(), summary.key))
        result.sort(key=value, reverse=self.falling)
        return result
