"""Both text formats: what parsers read back is what was counted, and what prometheus-client would have written."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest as generate_text
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Exemplar as TheirExemplar
from prometheus_client.utils import floatToGoString

from exporter.deployments.completions import Ledger
from exporter.deployments.snapshot import (
    ConfigName,
    ConfigRow,
    Distribution,
    Exemplar,
    ProblemRow,
    ServerRow,
    Snapshot,
    Tally,
)
from exporter.deployments.state import CloudState, ExporterState, ProjectKey, ProjectState
from exporter.metrics.families import FAMILIES, Family, Scope
from exporter.metrics.store import Page
from exporter.metrics.text_format import END_OF_OPENMETRICS, FORMATS, Format, headers, number, render

AWKWARD = (
    '"', "\\", "\n", "\\n", '\\"', "ends in a backslash\\", '"},{"', "%", "%s", "%%", "100 %d", "{", "}", "{0}", "a=b",
    ",", "# EOF", "\n# EOF\n", '"} 1\nheat_up{cloud="forged"} 1', "#", " ", "  padded  ", "", "\t", "\r", "\r\n",
    "\x00", "\x1b[31m", "\x7f", "\x85", "\u2028", "\ufeff", "é", "😀", "+Inf", "NaN", "x" * 10_000,
)  # fmt: skip
LABELS = st.one_of(st.sampled_from(AWKWARD[:-1]), st.text(st.characters(exclude_categories=["Cs"]), max_size=20))


class Shown(NamedTuple):
    """One state and whose it is: its scope, and its values of the scope's labels."""

    scope: Scope
    base: tuple[str, ...]
    state: Any


def page_text(shown: Sequence[Shown], format: Format, families: Sequence[Family] = FAMILIES) -> str:
    """The page of these states."""
    page = Page(families)
    for number_, each in enumerate(shown):
        blocks = {
            family.name: block
            for family in families
            if family.scope == each.scope and (block := render(family, each.base, each.state)) is not None
        }
        page.put(number_, blocks)
    return (page.plain(format) + (END_OF_OPENMETRICS if format == "openmetrics" else b"")).decode()


Sample = tuple[str, tuple[tuple[str, str], ...], float]


def sample(name: str, labels: dict[str, str], value: float) -> Sample:
    """A sample in a form that can be sorted and compared; NaN equals itself."""
    return name, tuple(sorted(labels.items())), "NaN" if math.isnan(value) else float(value)


class Spelled(NamedTuple):
    """A sample, and what stands for it."""

    name: str
    labels: dict[str, str]
    value: float
    exemplar: Exemplar | None = None


def samples_of(family: Family, base: Sequence[str], state: Any) -> Iterator[Spelled]:
    """A state's samples of a family, spelled out."""
    g = "g" if family.kind == "gaugehistogram" else ""
    for row in family.rows(state):
        labels = dict(zip(family.all_labels, (*base, *map(str, row[:-1])), strict=True))
        if family.kind not in {"histogram", "gaugehistogram"}:
            value = row[-1] if isinstance(row[-1], Tally) else (row[-1], None)
            yield Spelled(family.name, labels, *value)
            continue
        found: Distribution = row[-1]
        exemplars = found.exemplars or (None,) * (len(found.bounds) + 1)
        buckets = zip((*found.bounds, math.inf), (*found.cumulative, found.size), exemplars, strict=True)
        for bound, count, exemplar in buckets:
            yield Spelled(f"{family.name}_bucket", {**labels, "le": floatToGoString(bound)}, count, exemplar)
        yield Spelled(f"{family.name}_{g}count", labels, found.size)
        yield Spelled(f"{family.name}_{g}sum", labels, found.total)


class Table:
    """A collector, as prometheus-client knows them, of the same states."""

    def __init__(self, shown: Sequence[Shown], families: Sequence[Family] = FAMILIES) -> None:
        self._shown, self._families = shown, families

    def collect(self) -> Iterator[Metric]:
        """Every family that has samples."""
        for family in self._families:
            name = family.name.removesuffix("_total") if family.kind == "counter" else family.name
            metric = Metric(name, family.help_text, family.kind, family.unit)
            for each in self._shown:
                if each.scope == family.scope:
                    for name, labels, value, mine in samples_of(family, each.base, each.state):
                        ids = {"deployment_id": mine.deployment_id} if mine else {}
                        theirs = TheirExemplar(ids, mine.value, mine.timestamp) if mine else None
                        metric.add_sample(name, labels, value, exemplar=theirs)
            if metric.samples:
                yield metric


def parsed(text: str, format: Format) -> list[tuple[str, str, str, str, list[Sample]]]:
    """What a parser reads: each family's name, help, type, unit and samples."""
    parse = parse_openmetrics if format == "openmetrics" else parse_text
    found = []
    for family in parse(text):
        assert all(each.timestamp is None for each in family.samples)
        samples = sorted(sample(each.name, each.labels, each.value) for each in family.samples)
        found.append((family.name, family.documentation, family.type, family.unit, samples))
    return found


def distributions(bounds: Sequence[float]) -> st.SearchStrategy[Distribution]:
    """Histograms that count something."""
    return st.lists(st.integers(0, 1000), min_size=len(bounds) + 1, max_size=len(bounds) + 1).map(
        lambda counts: Distribution(
            tuple(bounds),
            tuple(sum(counts[: end + 1]) for end in range(len(bounds))),
            sum(counts),
            float(sum(counts) * 17.25),
        )
    )


FLOATS = st.one_of(st.floats(0, allow_infinity=False), st.sampled_from((0.0, 1e21, 1e22, 1.7e9, 1_700_000_000.123456)))
COUNTS = st.integers(0, 2**53)
CELLS = st.tuples(LABELS, LABELS)
# Deferred, because strategies name all that they are made of, and nobody reads that many names.
SNAPSHOTS = st.deferred(
    lambda: st.builds(
        Snapshot,
        asked_at=FLOATS,
        deployments=st.dictionaries(CELLS, COUNTS, max_size=3),
        stuck=st.dictionaries(LABELS, COUNTS, max_size=3),
        servers=st.lists(
            st.builds(ServerRow, LABELS, LABELS, LABELS, COUNTS), max_size=3, unique_by=lambda row: row[:3]
        ).map(tuple),
        codes=st.dictionaries(CELLS, COUNTS, max_size=3),
        code_distribution=st.dictionaries(LABELS, distributions((0, 1, 255)), max_size=2),
        problems=st.lists(
            st.builds(ProblemRow, st.just("failed"), *[LABELS] * 6, FLOATS, LABELS),
            max_size=3,
            unique_by=lambda row: row[:7],
        ).map(tuple),
        configs=st.lists(
            st.builds(ConfigRow, LABELS, LABELS, LABELS, COUNTS), max_size=3, unique_by=lambda row: row[:3]
        ).map(tuple),
        config_names=st.dictionaries(LABELS, st.builds(ConfigName, LABELS, LABELS), max_size=2),
        server_names=st.dictionaries(LABELS, LABELS, max_size=2),
        ages=st.dictionaries(LABELS, distributions((60.0, 3600.0, 0.5 + 2**40)), max_size=2),
        state_ages=st.dictionaries(LABELS, distributions((60.0,)), max_size=2),
        oldest_changes=st.dictionaries(CELLS, st.floats(-1e12, 1e12), max_size=2),
        newest_changes=st.dictionaries(CELLS, st.floats(-1e12, 1e12), max_size=2),
        response_bytes=COUNTS,
    )
)
EXEMPLARS = st.builds(Exemplar, st.uuids().map(str), st.floats(0, 1e6), st.floats(1, 2e9))
LEDGERS = st.deferred(
    lambda: st.builds(
        Ledger,
        finished=st.dictionaries(CELLS, st.builds(Tally, COUNTS, st.one_of(st.none(), EXEMPLARS)), max_size=2),
        durations=st.dictionaries(
            CELLS,
            st.builds(
                lambda distribution, exemplars: distribution._replace(exemplars=tuple(exemplars)),
                distributions((5.0, 60.0)),
                st.lists(st.one_of(st.none(), EXEMPLARS), min_size=3, max_size=3),
            ),
            max_size=2,
        ),
    )
)
PROJECTS = st.deferred(
    lambda: st.builds(
        ProjectState,
        key=st.builds(ProjectKey, LABELS, LABELS),
        name=LABELS,
        interval=FLOATS,
        snapshot=st.one_of(st.none(), SNAPSHOTS),
        up=st.sampled_from((None, True, False)),
        refreshes=COUNTS,
        failures=st.dictionaries(CELLS, COUNTS, max_size=2),
        duration=st.one_of(st.none(), FLOATS),
        ledger=st.one_of(st.none(), LEDGERS),
    )
)


@st.composite
def fleets(draw: st.DrawFn) -> list[Shown]:
    """Some projects with their data, a cloud, and the exporter."""
    shown: list[Shown] = []
    for state in draw(st.lists(PROJECTS, max_size=2, unique_by=lambda state: state.key)):
        base = (*state.key, state.name)
        shown.append(Shown("project", base, state))
        if state.snapshot:
            shown.append(Shown("data", base, state.snapshot))
    cloud = draw(LABELS)
    shown.append(
        Shown("cloud", (cloud,), CloudState(cloud=cloud, requests=draw(st.dictionaries(CELLS, COUNTS, max_size=2))))
    )
    shown.append(Shown("exporter", (), ExporterState(version=draw(LABELS), python_version="3.11", config_hash=2.0**47)))
    return shown


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=40, deadline=None)
@given(shown=fleets())
def test_parsers_read_what_was_counted(format: Format, shown: list[Shown]) -> None:
    """prometheus-client's own parser reads every sample back, with its labels and value, and none besides."""
    found = [each for _, _, _, _, samples in parsed(page_text(shown, format), format) for each in samples]
    expected = [
        sample(*each[:3])
        for family in FAMILIES
        for owner in shown
        if owner.scope == family.scope
        for each in samples_of(family, owner.base, owner.state)
    ]
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=40, deadline=None)
@given(shown=fleets())
def test_what_is_written_is_what_prometheus_client_writes(format: Format, shown: list[Shown]) -> None:
    """Its generate_latest, given the same samples, says the same: families, help, types, units and samples."""
    generate = generate_openmetrics if format == "openmetrics" else generate_text
    theirs = generate(Table(shown)).decode()
    assert parsed(page_text(shown, format), format) == parsed(theirs, format)


def spread_out(value: str) -> list[Shown]:
    """States that show this value in every place where a label's value can stand."""
    distribution = Distribution((1.0,), (1,), 2, 3.0)
    snapshot = Snapshot(
        asked_at=0,
        deployments={(value, value): 1},
        stuck={value: 1},
        servers=(ServerRow(value, value, value, 1),),
        codes={(value, value): 1},
        code_distribution={value: distribution},
        ages={value: distribution},
    )
    state = ProjectState(key=ProjectKey(value, value), name=value, interval=1, failures={(value, value): 1}, up=True)
    base = (value, value, value)
    cloud = CloudState(cloud=value, requests={(value, value): 1})
    exporter = ExporterState(version=value, python_version=value, config_hash=1)
    return [
        Shown("data", base, snapshot),
        Shown("project", base, state),
        Shown("cloud", (value,), cloud),
        Shown("exporter", (), exporter),
    ]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("value", AWKWARD, ids=lambda value: repr(value)[:20])
def test_awkward_label_values(format: Format, value: str) -> None:
    """Whatever a label's value is, it is read back as it was, wherever it stands, and makes no line of its own."""
    text = page_text(spread_out(value), format)
    found = {each for _, _, _, _, samples in parsed(text, format) for each in samples}
    for labels in (
        {"cloud": value, "project_id": value, "project": value, "status": value, "action": value},
        {"cloud": value, "project_id": value, "project": value, "server_id": value, "status": value, "action": value},
    ):
        name = "heat_server_software_deployments" if "server_id" in labels else "heat_software_deployments"
        assert sample(name, labels, 1) in found
    assert sample("heat_exporter_build_info", {"version": value, "python_version": value}, 1) in found
    assert text.count("\n") == page_text(spread_out("plain"), format).count("\n")


@pytest.mark.parametrize(
    "value", [*range(-3, 4), 2**53, 10**30, 0.0, -0.0, 0.1, 1e6, 1e21, 1e22, 1.7e9, 5e-324, math.inf, -math.inf]
)
def test_numbers(value: float) -> None:
    """Integers are written without a point; a float is written as prometheus-client and Go write it."""
    assert float(number(value)) == float(value)
    assert number(value) == (str(value) if isinstance(value, int) else floatToGoString(value))


def test_no_number() -> None:
    """NaN is written as the formats want it."""
    assert number(math.nan) == "NaN"


# --- this state in, this text out ---

SMALL = Snapshot(
    asked_at=1000.5,
    codes={("FAILED", "2"): 3},
    ages={"FAILED": Distribution((60.0, 3600.0), (1, 2), 3, 4000.25)},
)
LABELLED = 'cloud="prod",project_id="p1",project="one"'
SMALL_TEXT = f"""\
# HELP heat_software_deployment_status_codes [STABLE] Codes.
# TYPE heat_software_deployment_status_codes gauge
heat_software_deployment_status_codes{{{LABELLED},status="FAILED",deploy_status_code="2"}} 3
# HELP heat_software_deployment_age_seconds [ALPHA] Ages.
# TYPE heat_software_deployment_age_seconds histogram
heat_software_deployment_age_seconds_bucket{{{LABELLED},status="FAILED",le="60.0"}} 1
heat_software_deployment_age_seconds_bucket{{{LABELLED},status="FAILED",le="3600.0"}} 2
heat_software_deployment_age_seconds_bucket{{{LABELLED},status="FAILED",le="+Inf"}} 3
# HELP heat_software_deployment_age_seconds_gcount [ALPHA] Ages.
# TYPE heat_software_deployment_age_seconds_gcount gauge
heat_software_deployment_age_seconds_gcount{{{LABELLED},status="FAILED"}} 3
# HELP heat_software_deployment_age_seconds_gsum [ALPHA] Ages.
# TYPE heat_software_deployment_age_seconds_gsum gauge
heat_software_deployment_age_seconds_gsum{{{LABELLED},status="FAILED"}} 4000.25
# HELP heat_refreshes_total [STABLE] Attempts.
# TYPE heat_refreshes_total counter
heat_refreshes_total{{{LABELLED}}} 7
# HELP heat_exporter_config_hash [STABLE] A "hash" \\\\ two\\nlines.
# TYPE heat_exporter_config_hash gauge
heat_exporter_config_hash 17.0
"""
SMALL_OPENMETRICS = f"""\
# HELP heat_software_deployment_status_codes [STABLE] Codes.
# TYPE heat_software_deployment_status_codes gauge
heat_software_deployment_status_codes{{{LABELLED},status="FAILED",deploy_status_code="2"}} 3
# HELP heat_software_deployment_age_seconds [ALPHA] Ages.
# TYPE heat_software_deployment_age_seconds gaugehistogram
# UNIT heat_software_deployment_age_seconds seconds
heat_software_deployment_age_seconds_bucket{{{LABELLED},status="FAILED",le="60.0"}} 1
heat_software_deployment_age_seconds_bucket{{{LABELLED},status="FAILED",le="3600.0"}} 2
heat_software_deployment_age_seconds_bucket{{{LABELLED},status="FAILED",le="+Inf"}} 3
heat_software_deployment_age_seconds_gcount{{{LABELLED},status="FAILED"}} 3
heat_software_deployment_age_seconds_gsum{{{LABELLED},status="FAILED"}} 4000.25
# HELP heat_refreshes [STABLE] Attempts.
# TYPE heat_refreshes counter
heat_refreshes_total{{{LABELLED}}} 7
# HELP heat_exporter_config_hash [STABLE] A \\"hash\\" \\\\ two\\nlines.
# TYPE heat_exporter_config_hash gauge
heat_exporter_config_hash 17.0
# EOF
"""
EXPLAINED = {
    "heat_software_deployment_status_codes": ("STABLE", "Codes."),
    "heat_software_deployment_age_seconds": ("ALPHA", "Ages."),
    "heat_refreshes_total": ("STABLE", "Attempts."),
    "heat_exporter_config_hash": ("STABLE", 'A "hash" \\ two\nlines.'),
}


@pytest.mark.parametrize(("format", "text"), [("text", SMALL_TEXT), ("openmetrics", SMALL_OPENMETRICS)])
def test_this_in_this_out(format: Format, text: str) -> None:
    """A page is just this text, to the byte."""
    families = [
        Family(
            name=family.name,
            kind=family.kind,
            scope=family.scope,
            help=EXPLAINED[family.name][1],
            labels=family.labels,
            rows=family.rows,
            stability=EXPLAINED[family.name][0],
        )
        for family in FAMILIES
        if family.name in EXPLAINED
    ]
    base = ("prod", "p1", "one")
    state = ProjectState(key=ProjectKey("prod", "p1"), name="one", interval=60, refreshes=7)
    exporter = ExporterState(version="1", python_version="3", config_hash=17.0)
    shown = [Shown("data", base, SMALL), Shown("project", base, state), Shown("exporter", (), exporter)]
    assert page_text(shown, format, families) == text


def test_a_histogram_is_one_in_both_formats() -> None:
    """A histogram without labels of its own has its buckets, count and sum together."""
    (family,) = (family for family in FAMILIES if family.name == "heat_refresh_duration_seconds")
    state = CloudState(cloud="prod", refresh_durations=Distribution((0.5, 1.0), (1, 2), 3, 9.5))
    block = render(family, ("prod",), state)
    assert block is not None
    text = (
        b'heat_refresh_duration_seconds_bucket{cloud="prod",le="0.5"} 1\n'
        b'heat_refresh_duration_seconds_bucket{cloud="prod",le="1.0"} 2\n'
        b'heat_refresh_duration_seconds_bucket{cloud="prod",le="+Inf"} 3\n'
        b'heat_refresh_duration_seconds_count{cloud="prod"} 3\n'
        b'heat_refresh_duration_seconds_sum{cloud="prod"} 9.5\n'
    )
    assert block.text == block.openmetrics == (text,)


@pytest.mark.parametrize("kind", ["histogram", "gaugehistogram"])
def test_a_histogram_without_any_label(kind: Any) -> None:
    """A histogram of the exporter itself has no label but its bounds."""
    rows = lambda state: [(Distribution((1.0,), (1,), 2, 3.0),)]
    family = Family(name="heat_x_seconds", kind=kind, scope="exporter", help="X.", rows=rows)
    block = render(family, (), None)
    assert block is not None
    assert b"".join(block.text).startswith(b'heat_x_seconds_bucket{le="1.0"} 1\nheat_x_seconds_bucket{le="+Inf"} 2\n')
    assert b"count 2\n" in b"".join(block.text)
    assert b"sum 3.0\n" in b"".join(block.text)


@pytest.mark.parametrize("labels", range(8))
def test_any_number_of_labels(labels: int) -> None:
    """A family may have any number of labels of its own, and each value stands at its label."""
    names = tuple(f"l{number}" for number in range(labels))
    row = (*(f'%{number}"' for number in range(labels)), 7)
    family = Family(name="heat_x", kind="gauge", scope="cloud", help="X.", labels=names, rows=lambda state: [row])
    (found,) = parsed(page_text([Shown("cloud", ("100 %",), None)], "text", [family]), "text")
    assert found[-1] == [sample("heat_x", {"cloud": "100 %", **dict(zip(names, row[:-1], strict=True))}, 7)]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_no_rows_no_block(family: Family) -> None:
    """A family without samples is not written at all."""
    empty = Family(
        name=family.name, kind=family.kind, scope=family.scope, help="X.", labels=family.labels, rows=lambda state: []
    )
    base = ("x",) * (len(family.all_labels) - len(family.labels))
    assert render(empty, base, None) is None


# --- headers ---


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_headers(family: Family, format: Format) -> None:
    """Each section says what it is; a unit only OpenMetrics has, where the name ends in it; _info is a gauge."""
    sections = [header.decode().splitlines() for header in headers(family, format)]
    name = family.name
    if format == "openmetrics":
        (lines,) = sections
        base = name.removesuffix("_total")
        assert lines[0].startswith((f"# HELP {base} [STABLE] ", f"# HELP {base} [ALPHA] "))
        assert lines[1] == f"# TYPE {base} {family.kind}"
        assert lines[2:] == [f"# UNIT {base} {unit}" for unit in ("seconds", "bytes") if base.endswith(unit)]
    else:
        names = [name] if family.kind != "gaugehistogram" else [name, f"{name}_gcount", f"{name}_gsum"]
        kinds = [family.kind] if family.kind != "gaugehistogram" else ["histogram", "gauge", "gauge"]
        for lines, each, kind in zip(sections, names, kinds, strict=True):
            assert lines[0].startswith((f"# HELP {each} [STABLE] ", f"# HELP {each} [ALPHA] "))
            assert lines[1:] == [f"# TYPE {each} {kind}"]
    if name.endswith("_info"):
        assert sections[0][1] == f"# TYPE {name} gauge"


@pytest.mark.parametrize("format", FORMATS)
def test_sections_are_contiguous(format: Format) -> None:
    """With several projects each family is in one place, under one header, without _created and without timestamps."""
    shown = [
        Shown(each.scope, tuple(f"{part}-{number_}" for part in each.base), each.state)
        for number_ in range(3)
        for each in spread_out("x")
        if each.scope != "exporter"
    ]
    lines = page_text(shown, format).splitlines()
    places: defaultdict[str, list[int]] = defaultdict(list)
    header = ""
    for at, line in enumerate(lines):
        if line.startswith("# HELP "):
            header = line.split()[2]
            assert header not in places
        elif line == "# EOF":
            assert at == len(lines) - 1
            break
        assert line.split()[2] == header if line.startswith("#") else line.startswith(header)
        assert "_created" not in line
        assert line.startswith("#") or len(line.rsplit("}", 1)[1].split()) == 1
        places[header].append(at)
    assert len(places) > 20
    assert all(found == list(range(found[0], found[-1] + 1)) for found in places.values())
    assert lines.count("# EOF") == (format == "openmetrics")


@pytest.mark.parametrize("format", FORMATS)
def test_an_empty_page(format: Format) -> None:
    """Without any state there is no header either, and OpenMetrics still has its end."""
    assert page_text([], format) == ("# EOF\n" if format == "openmetrics" else "")
    assert parsed(page_text([], format), format) == []


def test_half_a_surrogate_pair_costs_no_page() -> None:
    """A project's name that no UTF-8 can hold is shown with a replacement, and everything else as it is."""
    state = ProjectState(key=ProjectKey("c", "p"), name="a\ud800b", interval=1.0, up=True)
    family = next(family for family in FAMILIES if family.name == "heat_up")
    block = render(family, ("c", "p", state.name), state)
    assert block is not None
    assert block.text == (b'heat_up{cloud="c",project_id="p",project="a?b"} 1\n',)
