"""Counting records: this listing in, this snapshot out."""

import random
import tracemalloc
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.deployments.aggregator import GROUP_RECORDS, STEP_RECORDS, Aggregator, server_filter
from exporter.deployments.cells import CODES_KNOWN, CODES_LIMIT
from exporter.deployments.names import ConfigTally, Names, NameTable, hashed, named
from exporter.deployments.records import Batch, Deployment, Outputs, Rejection, salvage
from exporter.deployments.snapshot import (
    TABLES,
    ConfigName,
    ConfigRow,
    Distribution,
    ProblemRow,
    ServerRow,
    Snapshot,
    Table,
)
from tests import oracle
from tests.oracle import Rules

ASKED_AT = 1_700_000_000.0
NOW = datetime.fromtimestamp(ASKED_AT, UTC)


def ago(seconds: float) -> str:
    """A time so long before the listing was asked for."""
    return (NOW - timedelta(seconds=seconds)).isoformat()


class Text(str):
    """A text of which can be told whether somebody still has it."""

    __slots__ = ("__weakref__",)


def names_of(rules: Rules) -> Names:
    """The names that the rules know."""
    table: NameTable[ConfigName] = NameTable()
    ids, names = [config for config, _ in rules.names], [ConfigName(*name) for _, name in rules.names]
    return Names(table.with_more(hashed(ids), names))


def fold_of(
    *batches: list[Any], rules: Rules | None = None, asked_at: float = ASKED_AT, names: bool = False
) -> Aggregator:
    """A fold to which these items were added, batch by batch."""
    fold = Aggregator((rules or Rules()).options(), asked_at=asked_at, names=names)
    for items in batches:
        found = [salvage(item) for item in items]
        records = [record for record in found if isinstance(record, Deployment)]
        rejected: list[Rejection] = [reason for reason in found if not isinstance(reason, Deployment)]
        fold.add(Batch(records, rejected))
    return fold


def counted(*items: Any, rules: Rules | None = None) -> Snapshot:
    """The snapshot of these items in one batch."""
    return fold_of(list(items), rules=rules).finish()


def made(number: int, **values: Any) -> list[dict[str, Any]]:
    """So many deployments with ids of their own."""
    return [{"id": f"{values}-{each}", **values} for each in range(number)]


def test_nothing_counted() -> None:
    """An empty listing gives a snapshot without any cell."""
    assert counted() == Snapshot(asked_at=ASKED_AT)


def test_one_deployment() -> None:
    """A failed deployment shows in every table with its own values."""
    snapshot = counted(
        {
            "id": "a",
            "server_id": "web",
            "status": "FAILED",
            "action": "UPDATE",
            "creation_time": ago(7200),
            "updated_time": ago(30),
            "output_values": {"deploy_status_code": "2"},
        }
    )
    bounds = Rules().age_bounds
    assert snapshot == Snapshot(
        asked_at=ASKED_AT,
        deployments={("FAILED", "UPDATE"): 1},
        stuck={"UPDATE": 0},
        servers=(ServerRow("web", "FAILED", "UPDATE", 1),),
        codes={("FAILED", "2"): 1},
        code_distribution={"UPDATE": Distribution((0, 1, 2, 125, 255), (0, 0, 1, 1, 1), 1, 2.0)},
        ages={"FAILED": Distribution(bounds, (0, 0, 1, 1), 1, 7200.0)},
        state_ages={"FAILED": Distribution(bounds, (1, 1, 1, 1), 1, 30.0)},
        oldest_changes={("FAILED", "UPDATE"): ASKED_AT - 30},
        newest_changes={("FAILED", "UPDATE"): ASKED_AT - 30},
    )
    assert snapshot.total == 1


def test_one_bare_record() -> None:
    """A record with nothing but an id counts under empty labels and code `none`, and has no age."""
    assert counted({"id": "a"}) == Snapshot(
        asked_at=ASKED_AT,
        deployments={("", ""): 1},
        stuck={"": 0},
        servers=(ServerRow("", "", "", 1),),
        codes={("", "none"): 1},
    )


@pytest.mark.parametrize(
    ("status", "times", "stuck"),
    [
        ("IN_PROGRESS", {"creation_time": ago(3600)}, 1),
        ("IN_PROGRESS", {"creation_time": ago(3599.999999)}, 0),
        ("IN_PROGRESS", {"creation_time": ago(10**6), "updated_time": ago(3600)}, 1),
        ("IN_PROGRESS", {"creation_time": ago(10**6), "updated_time": ago(60)}, 0),
        ("IN_PROGRESS", {"creation_time": "garbage", "updated_time": ago(3600)}, 1),
        ("IN_PROGRESS", {"creation_time": ago(3600), "updated_time": "garbage"}, 1),
        ("IN_PROGRESS", {"creation_time": ago(-(10**6))}, 0),
        ("IN_PROGRESS", {}, 0),
        ("COMPLETE", {"creation_time": ago(10**6)}, 0),
        ("FAILED", {"creation_time": ago(10**6)}, 0),
        ("in_progress", {"creation_time": ago(10**6)}, 0),
    ],
)
def test_what_is_stuck(status: str, times: dict[str, str], stuck: int) -> None:
    """Stuck is what is IN_PROGRESS and has not changed for the threshold, by its update, else by its creation."""
    assert counted({"id": "a", "status": status, "action": "CREATE", **times}).stuck == {"CREATE": stuck}


@pytest.mark.parametrize(("age", "cumulative"), [(60, (1, 1)), (60.000001, (0, 1)), (3600, (0, 1)), (3601, (0, 0))])
def test_a_bound_belongs_to_its_bucket(age: float, cumulative: tuple[int, ...]) -> None:
    """A bucket holds the ages up to its bound, the bound included."""
    snapshot = counted({"id": "a", "creation_time": ago(age)}, rules=Rules(age_bounds=(60.0, 3600.0)))
    assert snapshot.ages == {"": Distribution((60.0, 3600.0), cumulative, 1, age)}


def test_a_clock_that_is_ahead() -> None:
    """A negative age counts as zero in the histogram, and the time of the change is shown as it is."""
    snapshot = counted({"id": "a", "creation_time": ago(-500)}, {"id": "b", "creation_time": ago(10)})
    assert snapshot.ages[""] == Distribution(Rules().age_bounds, (2, 2, 2, 2), 2, 10.0)
    assert snapshot.newest_changes == {("", ""): ASKED_AT + 500}
    assert snapshot.oldest_changes == {("", ""): ASKED_AT - 10}


def test_very_old_deployments() -> None:
    """Thousands of deployments from the year 1 have a sum of ages like any others."""
    ages = counted(*made(5000, creation_time="0001-01-01T00:00:00Z")).ages[""]
    assert ages.size == 5000
    assert ages.total == 5000 * (NOW - datetime(1, 1, 1, tzinfo=UTC)).total_seconds()


@pytest.mark.parametrize("split", [False, True])
def test_the_same_id_counts_once(split: bool) -> None:
    """The first record of an id counts, within a batch and across batches; the others are duplicates."""
    items: list[Any] = [{"id": "a", "status": "FAILED"}, {"id": "b"}, {"id": "a", "status": "COMPLETE"}, {"id": "a"}]
    fold = fold_of(*([item] for item in items)) if split else fold_of(items)
    snapshot = fold.finish()
    assert snapshot.deployments == {("FAILED", ""): 1, ("", ""): 1}
    assert snapshot.duplicates == 2


def test_records_do_not_wait_for_ever() -> None:
    """However few there are of each of many kinds, no more records are kept than make a few groups full."""
    items = [{**item, "status": f"S{number % 7}", "action": f"A{number}"} for number, item in enumerate(made(3000))]
    fold = Aggregator(Rules().options(), asked_at=ASKED_AT)
    alive: weakref.WeakSet[Text] = weakref.WeakSet()
    most = 0
    for start in range(0, len(items), 50):
        reasons = [Text(number) for number in range(start, start + 50)]
        alive.update(reasons)
        records = [Deployment(**item, status_reason=reason) for item, reason in zip(items[start:], reasons)]
        fold.add(Batch(records, []))
        del records, reasons
        most = max(most, len(alive))
    assert most <= 7 * GROUP_RECORDS + STEP_RECORDS
    snapshot = fold.finish()
    assert snapshot.total == 3000
    assert sum(count for (_, action), count in snapshot.deployments.items() if action == "other") > 2000


def test_rejected_records() -> None:
    """Records without an id are counted by reason, and nowhere else."""
    fold = fold_of([{}, 5], [{"id": None}, {"id": "a"}])
    assert fold.finish().rejected == {"id": 2, "not_object": 1}
    assert fold.finish().total == 1


def test_the_size_is_passed_on() -> None:
    """A snapshot says how large its listing was."""
    assert fold_of([]).finish(response_bytes=17).response_bytes == 17


@pytest.mark.parametrize(
    ("limit", "shown", "withheld"),
    [
        (0, [], 0),
        (1, ["failing"], 5),
        (2, ["failing", "stuck"], 4),
        (3, ["failing", "stuck", "also stuck"], 3),
        (4, ["failing", "stuck", "also stuck", ""], 2),
        (5, ["failing", "stuck", "also stuck", "", "fine"], 0),
    ],
)
def test_troubled_servers_come_first(limit: int, shown: list[str], withheld: int) -> None:
    """Past the limit the servers with the most failed and stuck deployments stay; what is left out is counted."""
    items = [
        *made(3, server_id="failing", status="FAILED"),
        *made(2, server_id="stuck", status="IN_PROGRESS", creation_time=ago(10**6)),
        *made(1, server_id="also stuck", status="IN_PROGRESS", creation_time=ago(10**6)),
        *made(9, server_id="fine", status="COMPLETE"),
        *made(9, server_id="fine", status="IN_PROGRESS", creation_time=ago(1)),
        *made(1, status="COMPLETE"),
    ]
    snapshot = counted(*items, rules=Rules(servers=limit))
    assert list(dict.fromkeys(row.server_id for row in snapshot.servers)) == shown
    assert snapshot.servers_withheld == withheld
    assert snapshot.total == len(items)


def problems(snapshot: Snapshot) -> dict[str, list[str]]:
    """The ids of the problem rows, in order, by problem."""
    found: dict[str, list[str]] = {"failed": [], "stuck": []}
    for row in snapshot.problems:
        found[row.problem].append(row.deployment_id)
    return found


def test_a_problem_row() -> None:
    """A failed deployment's row has all that names it, its reason cut to a thousand characters."""
    item = {
        "id": "a",
        "server_id": "web",
        "config_id": "c",
        "status": "FAILED",
        "status_reason": "x" * 1001,
        "action": "UPDATE",
        "creation_time": ago(7200),
        "updated_time": ago(30),
        "output_values": {"deploy_status_code": "127", "deploy_stderr": "s3cret"},
    }
    row = ProblemRow("failed", "a", "web", "c", "FAILED", "UPDATE", "127", ASKED_AT - 30, "x" * 1000)
    assert counted(item, rules=Rules(problems=5)).problems == (row,)


@pytest.mark.parametrize(
    ("code", "label"), [(None, ""), (0, "0"), ("3", "3"), (-1, "-1"), ("x", "invalid"), (True, "invalid")]
)
def test_the_code_of_a_problem(code: Any, label: str) -> None:
    """A problem's exit code is the integer, empty where there is none, `invalid` where it is nothing of the kind."""
    item = {"id": "a", "status": "FAILED", "creation_time": ago(1), "output_values": {"deploy_status_code": code}}
    assert [row.deploy_status_code for row in counted(item, rules=Rules(problems=5)).problems] == [label]


@pytest.mark.parametrize(
    ("limit", "failed", "stuck"),
    [(0, 0, 0), (1, 1, 0), (2, 1, 1), (3, 2, 1), (5, 3, 2), (9, 6, 3), (100, 6, 3)],
)
def test_both_problems_are_sure_of_half(limit: int, failed: int, stuck: int) -> None:
    """The newest failed and the longest stuck are shown, each kind in half of the places at least."""
    items = [{"id": f"f{age}", "status": "FAILED", "creation_time": ago(age)} for age in (4, 2, 5, 1, 6, 3)]
    items += [{"id": f"s{age}", "status": "IN_PROGRESS", "creation_time": ago(age)} for age in (5000, 7000, 6000)]
    items += [{"id": "no time", "status": "FAILED"}, {"id": "fine", "status": "COMPLETE", "creation_time": ago(1)}]
    items += [{"id": "running", "status": "IN_PROGRESS", "creation_time": ago(1)}]
    snapshot = counted(*items, rules=Rules(problems=limit))
    newest, oldest = ["f1", "f2", "f3", "f4", "f5", "f6"], ["s7000", "s6000", "s5000"]
    assert problems(snapshot) == {"failed": newest[:failed], "stuck": oldest[:stuck]}
    assert snapshot.problems_withheld == (9 - failed - stuck if limit else 0)


def test_problems_of_one_second() -> None:
    """Where several changed in the same second, those with the lowest ids are shown, whatever the order and batches."""
    ids = [f"{number:04}" for number in range(3000)]
    items = [{"id": each, "status": "FAILED", "creation_time": ago(60)} for each in random.Random(1).sample(ids, 3000)]
    fold = fold_of(items[:1500], items[1500:], rules=Rules(problems=10))
    assert problems(fold.finish())["failed"] == ids[:10]


def test_configs_count_by_name() -> None:
    """What repeats is a config's name: its configs count together, the most troubled first, unknown ones as one."""
    rules = Rules(
        configs=10, names=(("1", ("install", "script")), ("2", ("install", "script")), ("3", ("sync", "salt")))
    )
    items = [
        *made(2, config_id="1", status="COMPLETE"),
        *made(1, config_id="2", status="FAILED"),
        *made(2, config_id="3", status="IN_PROGRESS", creation_time=ago(10**6)),
        *made(1, config_id="4", status="COMPLETE"),
        *made(1, status="COMPLETE"),
    ]
    fold = fold_of(items, rules=rules, names=True)
    names = names_of(rules)
    tally = fold.tally().named_by(names.configs)
    assert tally.unnamed["COMPLETE"] == hashed(["4", None])
    assert named(fold.finish(), tally, names, configs=10).configs == (
        ConfigRow("sync", "salt", "IN_PROGRESS", 2),
        ConfigRow("install", "script", "COMPLETE", 2),
        ConfigRow("install", "script", "FAILED", 1),
        ConfigRow("", "", "COMPLETE", 2),
    )


@pytest.mark.parametrize(("limit", "shown", "withheld"), [(0, 0, 0), (1, 1, 3), (2, 3, 1), (3, 4, 0)])
def test_so_many_config_names(limit: int, shown: int, withheld: int) -> None:
    """Past the limit the most troubled names stay, each with all of its rows, and what is left out is counted."""
    rules = Rules(configs=limit, names=tuple((name, (name, "script")) for name in "abc"))
    items = [
        *made(3, config_id="a", status="COMPLETE"),
        *made(1, config_id="b", status="FAILED"),
        *made(1, config_id="b", status="COMPLETE"),
        *made(2, config_id="c", status="FAILED"),
    ]
    fold = fold_of(items, rules=rules, names=True)
    names = names_of(rules)
    snapshot = named(fold.finish(), fold.tally().named_by(names.configs), names, configs=limit)
    assert [row.config_name for row in snapshot.configs] == ["c", "b", "b", "a"][:shown]
    assert snapshot.configs_withheld == withheld


def test_nobody_asked_for_names_keeps_no_ids() -> None:
    """Where names are never looked up, deployments are counted without any of their configs' ids."""
    items = made(5, config_id="1", status="COMPLETE")
    assert not Names(asking=False).matter
    tally = fold_of(items, rules=Rules(configs=5), names=False).tally()
    assert tally == ConfigTally(Counter({(ConfigName("", ""), "COMPLETE"): 5}))


@pytest.mark.parametrize("kind", ["status", "action"])
def test_undocumented_values_are_bounded(kind: str) -> None:
    """Twenty undocumented values keep their names, in lexical order; the others are together as `other`."""
    others = [f"X{number:02}" for number in range(25)]
    items = [{"id": value, kind: value} for value in [*reversed(others), "COMPLETE", "CREATE"]]
    if kind == "status":
        items.append({"id": "stuck", "status": "IN_PROGRESS", "action": "X", "creation_time": ago(10**6)})
    found = [key[0] if kind == "status" else key[1] for key in counted(*items).deployments]
    documented = {"COMPLETE", "IN_PROGRESS"} if kind == "status" else {"CREATE"}
    kept = sorted([*others, *({"COMPLETE", "CREATE"} - documented)])[:20]
    assert sorted(found) == sorted({*kept, *documented, "other"})


@pytest.mark.parametrize("kind", ["status", "action", "code"])
@pytest.mark.parametrize("order", [1, -1])
def test_distinct_values_take_no_memory(kind: str, order: int) -> None:
    """A response in which every deployment has another value takes the memory of a few, in whatever order they come."""

    def batches() -> Iterator[Batch]:
        for start in range(0, 30_000, 200):
            values = [f"{number:05}" for number in range(start, start + 200)][::order]
            yield Batch([Deployment(id=each, **value(each)) for each in values], [])

    def value(text: str) -> dict[str, Any]:
        return {"output_values": Outputs(int(text))} if kind == "code" else {kind: text}

    fold = Aggregator(Rules(servers=0).options(), asked_at=ASKED_AT, compact=True)
    tracemalloc.start()
    try:
        for batch in batches():
            fold.add(batch)
        snapshot = fold.finish()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert snapshot.total == 30_000
    assert peak < 4e6


def test_a_config_each_takes_eight_bytes() -> None:
    """A config of its own for each deployment, as stacks have it, takes eight bytes until its name is known."""
    fold = Aggregator(Rules(servers=0, configs=10).options(), asked_at=ASKED_AT, names=True, compact=True)
    tracemalloc.start()
    try:
        for start in range(0, 50_000, 200):
            numbers = range(start, start + 200)
            fold.add(Batch([Deployment(id=f"{each}", config_id=f"config-{each}") for each in numbers], []))
        tally = fold.tally()
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert sum(map(len, tally.unnamed.values())) == 50_000
    assert kept < 50_000 * 2 * 8 * 1.5  # the deployments' ids take as much


def test_codes_past_ten_thousand_distinct_ones() -> None:
    """A code that is first seen after 10,000 others is `other`, however frequent; the distribution has them all."""
    codes = [*range(CODES_KNOWN), *[CODES_KNOWN] * 500, *[7] * 3]
    items = [
        {"id": str(place), "status": "FAILED", "action": "CREATE", "output_values": {"deploy_status_code": code}}
        for place, code in enumerate(codes)
    ]
    snapshot = fold_of(items).finish()
    assert len(snapshot.codes) == CODES_LIMIT + 1
    assert snapshot.codes["FAILED", "7"] == 4
    assert ("FAILED", str(CODES_KNOWN)) not in snapshot.codes
    assert sum(snapshot.codes.values()) == len(codes)
    assert snapshot.code_distribution["CREATE"].size == len(codes)
    assert snapshot.code_distribution["CREATE"].total == sum(codes)


def test_servers_beyond_the_limit_of_distinct_ones() -> None:
    """Deployments of servers first seen after so many distinct ones count in totals, and as series withheld."""
    servers = ["a", "b", "a", "c", "d", "c", "b"]
    items = [{"id": str(place), "server_id": server, "status": "FAILED"} for place, server in enumerate(servers)]
    options = replace(Rules(servers=10).options(), distinct_servers=2)
    fold = Aggregator(options, asked_at=ASKED_AT)
    for item in items:
        fold.add(Batch([Deployment(**item)], []))
    snapshot = fold.finish()
    assert snapshot.total == 7
    assert {row.server_id: row.deployments for row in snapshot.servers} == {"a": 2, "b": 2}
    assert snapshot.servers_withheld == 3


def test_a_value_named_other() -> None:
    """A status that really is `other` shares the label with those that did not fit."""
    items = [{"id": value, "status": value} for value in ["other", *(f"X{number:02}" for number in range(25))]]
    assert counted(*items).deployments["other", ""] == 6


def test_rare_codes_are_bounded() -> None:
    """The 64 most frequent codes keep their series, ties to the smaller; `none` and `invalid` always do."""
    items = []
    for code in range(70):
        items += made(2 if code >= 60 else 1, status="COMPLETE", output_values={"deploy_status_code": code})
    items += made(1, status="COMPLETE")
    items += made(1, status="COMPLETE", output_values={"deploy_status_code": "x"})
    codes = counted(*items).codes
    assert {code for _, code in codes} == {*map(str, range(54)), *map(str, range(60, 70)), "none", "invalid", "other"}
    assert codes["COMPLETE", "other"] == 6
    assert sum(codes.values()) == len(items)


@pytest.mark.parametrize(
    ("codes", "total"), [([10**400], float("inf")), ([-(10**400)], float("-inf")), ([10**400, -(10**400), 3], 3.0)]
)
def test_enormous_codes(codes: list[int], total: float) -> None:
    """A code that no double holds makes the sum infinite and nothing else."""
    items = [{"id": str(each), "status": "FAILED", "output_values": {"deploy_status_code": code}} for each, code in
             enumerate(codes)]  # fmt: skip
    assert counted(*items).code_distribution[""].total == total


@pytest.mark.parametrize(
    ("include", "exclude", "admitted"),
    [
        ([], [], {None, "", "web-1", "web-2", "db-1", "web-1\n"}),
        (["web-.*"], [], {"web-1", "web-2"}),
        (["web"], [], set()),
        ([], ["web-.*"], {None, "", "db-1", "web-1\n"}),
        (["web-.*", "db-1"], ["web-2|.*3"], {"web-1", "db-1"}),
        ([""], [], {None, ""}),
        ([".*"], [".*"], set()),
        (["a|web-1"], [], {"web-1"}),
    ],
)
def test_server_filter(include: list[str], exclude: list[str], admitted: set[str | None]) -> None:
    """Patterns are fully anchored, exclude wins, and a missing server is the empty text."""
    rules = server_filter(tuple(include), tuple(exclude))
    servers = (None, "", "web-1", "web-2", "db-1", "web-1\n")
    assert {server for server in servers if rules is None or rules.admits(server)} == admitted


def test_equal_patterns_are_equal_filters() -> None:
    """A filter is known again by its patterns, however many others a large configuration has."""
    before = server_filter(("web-.*",), ("web-1",))
    others = [server_filter((f"server-{each}",), ()) for each in range(100)]
    assert server_filter(("web-.*",), ("web-1",)) == before
    assert before not in others
    assert before != server_filter(("web-1",), ("web-.*",))


def test_what_the_filter_leaves_out_is_counted_nowhere() -> None:
    """A deployment of a server that is left out shows in no table, not even among the duplicates."""
    rules = Rules(include=("web",))
    items = [{"id": "a", "server_id": "web"}, {"id": "b", "server_id": "db"}, {"id": "b", "server_id": "db"}]
    fold = fold_of(items, rules=rules)
    assert fold.finish() == counted({"id": "a", "server_id": "web"}, rules=rules)


def crowd(seed: int) -> Iterator[dict[str, Any]]:
    """Some hundred deployments with enough distinct values to meet every limit."""
    chance = random.Random(seed)
    wide = chance.choice((5, 30, 90))
    for _ in range(chance.choice((1, 40, 400))):
        item: dict[str, Any] = {"id": str(chance.randrange(350))}
        item["status"] = chance.choice(("COMPLETE", "IN_PROGRESS", "FAILED", f"S{chance.randrange(wide)}", None))
        item["action"] = chance.choice(("CREATE", "UPDATE", "DELETE", f"A{chance.randrange(wide)}", None))
        item["server_id"] = chance.choice((f"server-{chance.randrange(wide)}", "web", None))
        item["config_id"] = chance.choice((f"config-{chance.randrange(wide)}", "config-1", "config-2", None))
        if chance.random() < 0.5:
            item["status_reason"] = chance.choice(("None", "it broke", "x" * 1500, None, 7))
        item["creation_time"] = ago(chance.choice((chance.randrange(-100, 10**7), 3600, 60, 86400)))
        if chance.random() < 0.5:
            item["updated_time"] = ago(chance.uniform(0, 10**5))
        if chance.random() < 0.9:
            code = chance.choice((0, 1, str(chance.randrange(-wide, wide)), chance.randrange(wide), None, "x"))
            item["output_values"] = {"deploy_status_code": code}
        yield item


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    size=st.sampled_from((1, 7, 1000)),
    rules=st.builds(
        Rules,
        servers=st.sampled_from((0, 1, 10, 10000)),
        problems=st.sampled_from((0, 1, 2, 7, 20, 200)),
        configs=st.sampled_from((0, 1, 3, 200)),
        names=st.sampled_from(((), (("config-1", ("install", "script")), ("config-2", ("install", "ansible"))))),
        stuck_after=st.sampled_from((60.0, 3600.0)),
    ),
    when=st.sampled_from(("before", "after", "never")),
)
def test_a_crowd_counts_as_the_plain_way_says(seed: int, size: int, rules: Rules, when: str) -> None:
    """Past every limit, whatever the batches, the snapshot is the one that the contract's words give; also where names
    are found out only after the listing was counted."""
    items = list(crowd(seed))
    batches = [items[start : start + size] for start in range(0, len(items), size)]
    names = names_of(rules)
    if when == "never":
        rules, names = replace(rules, names=()), Names(asking=False)
    fold = fold_of(*batches, rules=rules, names=names.matter)
    tally = fold.tally()
    for known in (Names(), names) if when == "after" else (names,):
        tally = tally.named_by(known.configs)
    found = named(fold.finish(response_bytes=7), tally, names, configs=rules.configs)
    expected = oracle.count(items, rules, asked_at=ASKED_AT, response_bytes=7)
    assert oracle.fields_of(found) == oracle.fields_of(expected)


LEFT_OUT = [frozenset({table}) for table in sorted(TABLES)] + [
    frozenset[Table](("codes", "code_distribution")),
    frozenset[Table](("oldest_changes", "newest_changes")),
    TABLES,
]


@pytest.mark.parametrize("left_out", LEFT_OUT, ids=lambda tables: "+".join(sorted(tables)))
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rest=st.sampled_from((Rules(servers=10, problems=20, configs=3), Rules(servers=0), Rules(problems=7, servers=0))),
)
def test_a_table_left_out_is_empty_and_the_others_are_as_ever(
    left_out: frozenset[Table], seed: int, rest: Rules
) -> None:
    """What a family that nobody wants would need is in no cell and in no table, and nothing else changes by that: what
    is stuck, problems and servers are counted as ever."""
    items = list(crowd(seed))
    rules = replace(rest, tables=TABLES - left_out)
    fold = fold_of(items[:200], items[200:], rules=rules)
    found = named(fold.finish(), fold.tally(), Names(), configs=rules.configs)
    expected = oracle.count(items, rules, asked_at=ASKED_AT)
    assert oracle.fields_of(found) == oracle.fields_of(expected)
    assert not any(getattr(found, table) for table in left_out)
    for cell in fold._cells.values():
        assert not ("ages" in left_out and cell.ages.count)
        assert not ("state_ages" in left_out and cell.state_ages.count)
        assert not ("oldest_changes" in left_out and cell.oldest is not None)
        assert not ("newest_changes" in left_out and cell.newest is not None)
        assert not (rules.servers == 0 and cell.servers)
    assert (fold._codes is None) is (left_out >= {"codes", "code_distribution"})
    assert not (rules.servers == 0 and fold._troubled)


ALWAYS = {"id", "status", "action"}
TIMES = {"creation_time", "updated_time"}
NOTHING = Rules(servers=0, tables=frozenset())
LOOKED_AT: dict[str, tuple[Rules, set[str]]] = {
    "nothing": (NOTHING, set()),
    "ages": (replace(NOTHING, tables=frozenset({"ages"})), {"creation_time"}),
    "state ages": (replace(NOTHING, tables=frozenset({"state_ages"})), TIMES),
    "oldest changes": (replace(NOTHING, tables=frozenset({"oldest_changes"})), TIMES),
    "newest changes": (replace(NOTHING, tables=frozenset({"newest_changes"})), TIMES),
    "codes": (replace(NOTHING, tables=frozenset({"codes"})), {"output_values"}),
    "the codes' distribution": (replace(NOTHING, tables=frozenset({"code_distribution"})), {"output_values"}),
    "servers": (replace(NOTHING, servers=5), {"server_id"}),
    "configs": (replace(NOTHING, configs=5), {"config_id"}),
    "finishes": (replace(NOTHING, finishes=True), {*TIMES, "config_id"}),
}
"""By what alone is wanted: what is read of a deployment that is COMPLETE."""


@pytest.mark.parametrize("status", ["COMPLETE", "FAILED", "IN_PROGRESS"])
@pytest.mark.parametrize(("rules", "expected"), LOOKED_AT.values(), ids=LOOKED_AT.keys())
def test_what_nobody_wants_is_not_looked_at(rules: Rules, expected: set[str], status: str) -> None:
    """Of no deployment is anything read but what the families that are wanted need; of one that is IN_PROGRESS also
    when it changed, for the landing page says what is stuck."""
    looked_at: set[str] = set()

    class Watched(Deployment, frozen=True, gc=False):
        def __getattribute__(self, name: str) -> Any:
            looked_at.add(name)
            return super().__getattribute__(name)

    def watched(number: int) -> Deployment:
        return Watched(
            id=str(number),
            server_id="web",
            config_id="c",
            status=status,
            action="CREATE",
            creation_time=NOW - timedelta(days=1),
            updated_time=NOW - timedelta(hours=2) if number % 2 else None,
        )

    fold = Aggregator(rules.options(), asked_at=ASKED_AT, names=True)
    fold.add(Batch([watched(number) for number in range(1500)], []))
    assert fold.finish().deployments == {(status, "CREATE"): 1500}
    fold.tally(), fold.sighted()
    also = TIMES if status == "IN_PROGRESS" else set()
    assert looked_at.intersection(Deployment.__struct_fields__) == ALWAYS | expected | also


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), other=st.randoms(use_true_random=False))
def test_order_changes_no_count(seed: int, other: random.Random) -> None:
    """Heat's lists are not sorted: in another order the same deployments give the same snapshot."""
    items = list({item["id"]: item for item in crowd(seed)}.values())
    shuffled = other.sample(items, len(items))
    assert oracle.fields_of(fold_of(shuffled).finish()) == oracle.fields_of(fold_of(items).finish())
