"""Cutting a snapshot to what a page has room for."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from exporter.deployments.snapshot import ConfigName, ConfigRow, ProblemRow, ServerRow, Snapshot
from exporter.metrics.families import CONFIG_NAMES, CONFIGS, FAMILIES, PROBLEMS, SERVER_NAMES, SERVERS
from exporter.metrics.text_format import render

BOUNDED = [family for family in FAMILIES if family.name in {SERVERS, PROBLEMS, CONFIGS, CONFIG_NAMES, SERVER_NAMES}]


def made(servers: int, failed: int, stuck: int, configs: int, *, named: bool) -> Snapshot:
    """A snapshot of such a size, in which each server and config has two rows."""
    problems = [("failed", f"f{number}") for number in range(failed)] + [
        ("stuck", f"s{number}") for number in range(stuck)
    ]
    return Snapshot(
        asked_at=0,
        servers=tuple(ServerRow(f"s{each}", status, "CREATE", 1) for each in range(servers) for status in ("A", "B")),
        server_names={f"s{each}": "web" for each in range(0, servers, 2)} if named else {},
        problems=tuple(
            ProblemRow(problem, id, "s", f"c{place // 2}", "", "", "", 0.0, "")
            for place, (problem, id) in enumerate(problems)
        ),  # type: ignore[arg-type]
        config_names={f"c{place}": ConfigName("n", "g") for place in range((failed + stuck + 1) // 2)} if named else {},
        configs=tuple(ConfigRow(f"n{each}", "g", status, 1) for each in range(configs) for status in ("A", "B")),
    )


def lines(snapshot: Snapshot) -> int:
    """How many series it makes."""
    blocks = (render(family, ("", "", ""), snapshot) for family in BOUNDED)
    return sum(block.text[0].count(b"\n") for block in blocks if block is not None)


SIZES = st.integers(0, 6)
SNAPSHOTS = st.builds(made, SIZES, SIZES, SIZES, SIZES, named=st.booleans())


@given(snapshot=SNAPSHOTS, series=st.integers(0, 60))
def test_a_cut_is_no_larger_than_asked_for(snapshot: Snapshot, series: int) -> None:
    """However little room there is, a cut snapshot has no more series than that, and says how many it left out."""
    assert snapshot.bounded == lines(snapshot)
    cut = snapshot.cut(series)
    assert lines(cut) == cut.bounded <= max(series, 0)
    if snapshot.bounded <= series:
        assert cut == snapshot
    assert len(cut.servers) + cut.servers_withheld == len(snapshot.servers)
    assert len(cut.problems) + cut.problems_withheld == len(snapshot.problems)
    assert len(cut.configs) + cut.configs_withheld == len(snapshot.configs)
    assert cut.cut(series) == cut


@given(snapshot=SNAPSHOTS, series=st.integers(0, 60))
def test_what_belongs_together_stays_together(snapshot: Snapshot, series: int) -> None:
    """The first of each kind are kept, in their order: servers and configs whole, with their names; both problems."""
    cut = snapshot.cut(series)
    assert cut.servers == snapshot.servers[: len(cut.servers)]
    assert cut.configs == snapshot.configs[: len(cut.configs)]
    for rows in (cut.servers, cut.configs):
        assert all(len(list(group)) == 2 for _, group in itertools.groupby(rows, lambda row: row[0]))
    assert cut.server_names == {
        k: v for k, v in snapshot.server_names.items() if k in {r.server_id for r in cut.servers}
    }
    assert cut.config_names == {
        k: v for k, v in snapshot.config_names.items() if k in {r.config_id for r in cut.problems}
    }
    shown = {kind: [row for row in cut.problems if row.problem == kind] for kind in ("failed", "stuck")}
    there = {kind: [row for row in snapshot.problems if row.problem == kind] for kind in ("failed", "stuck")}
    for kind, rows in shown.items():
        assert rows == there[kind][: len(rows)]
    assert abs(len(shown["failed"]) - len(shown["stuck"])) <= 1 or any(shown[kind] == there[kind] for kind in shown)
    # Problems go last: while one of them is missing there is no room for anything else.
    if cut.problems_withheld:
        assert series - cut.bounded <= 1 or not cut.servers
