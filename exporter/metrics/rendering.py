"""A page and the families on it: states are rendered into blocks, and blocks are put onto the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from exporter.deployments.snapshot import Snapshot
from exporter.deployments.state import ProjectState
from exporter.metrics.families import CONFIG_NAMES, CONFIGS, PROBLEMS, SERVER_NAMES, SERVERS, Family, Scope
from exporter.metrics.series_budget import Owner
from exporter.metrics.store import Page
from exporter.metrics.text_format import Block, render

_ROWS: Final[Mapping[str, tuple[str, object]]] = {
    SERVERS: ("servers", ()),
    SERVER_NAMES: ("server_names", {}),
    CONFIGS: ("configs", ()),
    CONFIG_NAMES: ("config_names", {}),
    PROBLEMS: ("problems", ()),
}
"""By bounded family: the field of a snapshot that has its rows, and what that is without any."""


class Rendered(NamedTuple):
    """A snapshot, cut to what its project may show, and its blocks by family."""

    snapshot: Snapshot
    blocks: Mapping[str, Block]
    fixed: int
    """How many of the series are of families that no limit cuts."""


class FamilyRenderer:
    """A page and the families that it shows."""

    def __init__(self, families: Iterable[Family]) -> None:
        self.families = tuple(families)
        self._names = frozenset(family.name for family in self.families)
        self.page = Page(self.families)
        self.overfull = False
        """Whether its fixed series alone exceed the limit, which the log says once."""
        self._by_scope: dict[Scope, tuple[Family, ...]] = {
            scope: tuple(family for family in self.families if family.scope == scope)
            for scope in ("data", "project", "cloud", "exporter")
        }

    def render(self, scope: Scope, base: tuple[str, ...], state: object) -> dict[str, Block]:
        """The blocks of one state by family."""
        rendered = ((family.name, render(family, base, state)) for family in self._by_scope[scope])
        return {name: block for name, block in rendered if block is not None}

    def select(self, whole: Snapshot) -> Snapshot:
        """A snapshot without the rows of bounded families that the page does not show."""
        excluded = {name: empty for family, (name, empty) in _ROWS.items() if family not in self._names}
        return replace(whole, **excluded) if excluded else whole  # type: ignore[arg-type]

    def render_data(self, state: ProjectState, whole: Snapshot, series: int) -> Rendered:
        """A project's data with at most so many bounded series."""
        snapshot = self.select(whole).cut(series)
        blocks = self.render("data", (*state.key, state.name), snapshot)
        return Rendered(snapshot, blocks, lines(blocks) - snapshot.bounded)

    def put(self, owner: Owner, scope: Scope, blocks: Mapping[str, Block]) -> None:
        """Replace what an owner shows of the families of a scope."""
        self.page.put(owner, blocks, families=frozenset(family.name for family in self._by_scope[scope]))


def lines(blocks: Mapping[str, Block]) -> int:
    """How many series the blocks show."""
    return sum(part.count(b"\n") for block in blocks.values() for part in block.text)
