"""What a listing says, worked out the plain way: `json.loads`, a lenient pydantic model, and loops over records.

Nothing here shares code with the exporter but the type of the result; the rules are written down again from the
contract. Below it are strategies for listings of every kind, well-formed or just well-formed enough.
"""

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Annotated, Any

from hypothesis import strategies as st
from pydantic import BaseModel, PlainValidator, ValidationError

from exporter.deployments.aggregator import AggregatorOptions, server_filter
from exporter.deployments.snapshot import TABLES, ConfigRow, Distribution, ProblemRow, ServerRow, Snapshot, Table

DOCUMENTED_STATUSES = {"COMPLETE", "IN_PROGRESS", "FAILED"}
DOCUMENTED_ACTIONS = {"CREATE", "UPDATE", "DELETE", "SUSPEND", "RESUME"}
ASKED_AT = 1_700_000_000.25


# --- reading one record ---


def read_text(value: Any) -> str:
    """The text, with U+FFFD for what UTF-8 can't say; "" where it is none."""
    if not isinstance(value, str):
        return ""
    return "".join("\ufffd" if 0xD800 <= ord(character) < 0xE000 else character for character in value)


def read_name(value: Any) -> str:
    """A text of at most 255 characters; "" where it is none."""
    return text if len(text := read_text(value)) <= 255 else ""


def read_identity(value: Any) -> str:
    """A text that is not empty, nor too long."""
    if not (text := read_name(value)):
        raise ValueError("no id")
    return text


def _digits(text: str, *lengths: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) in lengths


def read_time(value: Any) -> datetime | None:
    """A time in ISO 8601's extended form; no zone means UTC, second 60 the one after 59."""
    if not isinstance(value, str) or not value.isascii() or value[10:11] not in {"T", "t", " "}:
        return None
    day, rest = value[:10], value[11:]
    zone = "+00:00"
    if rest[-1:] in {"Z", "z"}:
        rest = rest[:-1]
    elif (at := max(rest.rfind("+"), rest.rfind("-"))) >= 0:
        rest, sign, hours, minutes = rest[:at], rest[at], rest[at + 1 : at + 3], rest[at + 3 :].removeprefix(":")
        if not _digits(hours, 2) or not (_digits(minutes, 2) or rest + sign + hours == value[11:]) or minutes > "59":
            return None
        zone = f"{sign}{hours}:{minutes or '00'}"
    clock, *fraction = re.split("[.,]", rest.rstrip(" \t\n\r\f\v"))
    hour, minute, second = (clock.split(":") + ["00"])[:3] if clock.count(":") in {1, 2} else ("", "", "")
    if not (_digits(hour, 2) and _digits(minute, 2) and _digits(second, 2)) or hour > "23":
        return None
    if fraction and (clock.count(":") != 2 or len(fraction) > 1 or not _digits(fraction[0], len(fraction[0]))):
        return None
    portion = Decimal(f"0.{fraction[0]}" if fraction else "0").quantize(Decimal("1e-6"), ROUND_HALF_UP)
    if not (_digits(day[:4], 4) and _digits(day[5:7], 2) and _digits(day[8:], 2) and day[4] == day[7] == "-"):
        return None
    leap = second == "60"
    try:
        when = datetime.fromisoformat(f"{day}T{hour}:{minute}:{'59' if leap else second}{zone}")
        return when + timedelta(seconds=leap, microseconds=int(portion * 10**6))
    except (ValueError, OverflowError):
        return None


def read_code(value: Any) -> int | str:
    """An integer (also one in canonical decimal), `none` or `invalid`."""
    if value is None:
        return "none"
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        if isinstance(value, str) and str(int(value)) == value:
            return int(value)
    except ValueError:
        pass
    return "invalid"


def read_outputs(value: Any) -> int | str:
    """The exit code among the output values."""
    return read_code(value.get("deploy_status_code")) if isinstance(value, dict) else "none"


Text = Annotated[str, PlainValidator(read_text)]
Name = Annotated[str, PlainValidator(read_name)]
Time = Annotated[datetime | None, PlainValidator(read_time)]


class Record(BaseModel):
    """One deployment; only the id is not optional."""

    id: Annotated[str, PlainValidator(read_identity)]
    server_id: Name = ""
    config_id: Name = ""
    status: Name = ""
    status_reason: Text = ""
    action: Name = ""
    creation_time: Time = None
    updated_time: Time = None
    output_values: Annotated[int | str, PlainValidator(read_outputs)] = "none"


# --- counting ---


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What to count."""

    age_bounds: tuple[float, ...] = (60.0, 3600.0, 86400.0, 31536000.0)
    code_bounds: tuple[int, ...] = (0, 1, 2, 125, 255)
    stuck_after: float = 3600.0
    servers: int = 10000
    problems: int = 0
    configs: int = 0
    finishes: bool = False
    tables: frozenset[Table] = TABLES
    """Which of the tables that one family each has are wanted."""
    names: tuple[tuple[str, tuple[str, str]], ...] = ()
    """Of configs, by their id."""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def options(self) -> AggregatorOptions:
        """The same for the exporter."""
        return AggregatorOptions(
            age_bounds=self.age_bounds,
            code_bounds=self.code_bounds,
            stuck_after=self.stuck_after,
            servers=self.servers,
            problems=self.problems,
            configs=bool(self.configs),
            finishes=self.finishes,
            tables=self.tables,
            server_filter=server_filter(self.include, self.exclude),
        )

    def admits(self, server: str) -> bool:
        """Whether a server's deployments count."""
        if any(re.fullmatch(pattern, server) for pattern in self.exclude):
            return False
        return not self.include or any(re.fullmatch(pattern, server) for pattern in self.include)


def _microseconds(span: timedelta) -> int:
    return (span.days * 86400 + span.seconds) * 10**6 + span.microseconds


def _label(value: str, seen: set[str], documented: set[str]) -> str:
    """The value itself where it is documented or among the first twenty others, else `other`, which is none of them."""
    return value if value in documented or value in sorted(seen - documented - {"other"})[:20] else "other"


def _ages(ages: list[int], bounds: Sequence[float]) -> Distribution:
    """The gauge histogram of ages in microseconds."""
    ages = [max(age, 0) for age in ages]
    return Distribution(
        tuple(bounds),
        tuple(sum(Fraction(age, 10**6) <= Fraction(bound) for age in ages) for bound in bounds),
        len(ages),
        float(Fraction(sum(ages), 10**6)),
    )


def _codes(codes: list[int], bounds: Sequence[int]) -> Distribution:
    try:
        total = float(sum(codes))
    except OverflowError:
        total = float("inf") if sum(codes) > 0 else float("-inf")
    return Distribution(
        tuple(bounds), tuple(sum(code <= bound for code in codes) for bound in bounds), len(codes), total
    )


def count(items: list[Any], rules: Rules, *, asked_at: float = ASKED_AT, response_bytes: int = 0) -> Snapshot:
    """The snapshot of the decoded items of a listing."""
    now = datetime.fromtimestamp(asked_at, UTC)
    epoch = datetime.fromtimestamp(0, UTC)
    rejected: Counter[str] = Counter()
    met: dict[str, Record] = {}
    duplicates = 0
    for item in items:
        if not isinstance(item, dict):
            rejected["not_object"] += 1
            continue
        try:
            record = Record.model_validate(item)
        except ValidationError:
            rejected["id"] += 1
            continue
        if not rules.admits(record.server_id):
            continue
        if record.id in met:
            duplicates += 1
        else:
            met[record.id] = record
    records = list(met.values())

    statuses, actions = {record.status for record in records}, {record.action for record in records}
    frequency = Counter(record.output_values for record in records if isinstance(record.output_values, int))
    kept = sorted(frequency, key=lambda code: (-frequency[code], code))[:64]
    deployments: Counter[tuple[str, str]] = Counter()
    stuck: Counter[str] = Counter()
    codes: Counter[tuple[str, str]] = Counter()
    ran: defaultdict[str, list[int]] = defaultdict(list)
    ages: defaultdict[str, list[int]] = defaultdict(list)
    state_ages: defaultdict[str, list[int]] = defaultdict(list)
    changes: defaultdict[tuple[str, str], list[datetime]] = defaultdict(list)
    per_server: Counter[tuple[str, str, str]] = Counter()
    trouble: Counter[str] = Counter()
    failed: list[tuple[datetime, ProblemRow]] = []
    hung: list[tuple[datetime, ProblemRow]] = []
    named = dict(rules.names)
    per_config: Counter[tuple[str, str, str]] = Counter()
    config_trouble: Counter[tuple[str, str]] = Counter()
    for record in records:
        status = _label(record.status, statuses, DOCUMENTED_STATUSES)
        action = _label(record.action, actions, DOCUMENTED_ACTIONS)
        code = record.output_values
        deployments[status, action] += 1
        per_server[record.server_id, status, action] += 1
        codes[status, str(code) if isinstance(code, str) or code in kept else "other"] += 1
        if isinstance(code, int) and record.status in {"COMPLETE", "FAILED"}:
            ran[action].append(code)
        if record.creation_time:
            ages[status].append(_microseconds(now - record.creation_time))
        changed = record.updated_time or record.creation_time
        if changed:
            state_ages[status].append(_microseconds(now - changed))
            changes[status, action].append(changed)
        is_stuck = bool(
            record.status == "IN_PROGRESS" and changed and now - changed >= timedelta(seconds=rules.stuck_after)
        )
        stuck[action] += is_stuck
        trouble[record.server_id] += is_stuck or record.status == "FAILED"
        name = named.get(record.config_id, ("", ""))
        per_config[(*name, status)] += 1
        config_trouble[name] += is_stuck or record.status == "FAILED"
        if changed and (is_stuck or record.status == "FAILED"):
            when = float(Fraction(_microseconds(changed - epoch), 10**6))
            ids = record.id, record.server_id, record.config_id
            label = "" if code == "none" else str(code)
            row = ProblemRow(
                "stuck" if is_stuck else "failed",
                *ids,
                record.status,
                action,
                label,
                when,
                record.status_reason[:1000],
            )
            (hung if is_stuck else failed).append((changed, row))

    shown = sorted(trouble, key=lambda server: (-trouble[server], server))[: rules.servers]
    every = sorted(ServerRow(*key, number) for key, number in per_server.items())
    rows = [row for server in shown for row in every if row.server_id == server]

    failed.sort(key=lambda each: (now - each[0], each[1].deployment_id))
    hung.sort(key=lambda each: (each[0], each[1].deployment_id))
    # Each is sure of half, and takes what the other leaves.
    half = rules.problems // 2
    places = {"failed": min(len(failed), rules.problems - min(len(hung), half))}
    places["stuck"] = min(len(hung), rules.problems - places["failed"])
    problems = [row for _, row in failed[: places["failed"]]] + [row for _, row in hung[: places["stuck"]]]
    first = sorted(config_trouble, key=lambda config: (-config_trouble[config], config))[: rules.configs]
    all_configs = sorted(ConfigRow(*key, number) for key, number in per_config.items())
    configs = [row for config in first for row in all_configs if row[:2] == config]

    def unix(when: datetime) -> float:
        return float(Fraction(_microseconds(when - epoch), 10**6))

    snapshot = Snapshot(
        asked_at=asked_at,
        deployments=deployments,
        stuck=stuck,
        servers=tuple(rows),
        servers_withheld=len(per_server) - len(rows) if rules.servers else 0,
        problems=tuple(problems),
        problems_withheld=len(failed) + len(hung) - len(problems) if rules.problems else 0,
        configs=tuple(configs),
        configs_withheld=len(all_configs) - len(configs) if rules.configs else 0,
        config_names={row.config_id: named[row.config_id] for row in problems if row.config_id in named},
        codes=codes,
        code_distribution={action: _codes(each, rules.code_bounds) for action, each in ran.items()},
        ages={status: _ages(each, rules.age_bounds) for status, each in ages.items()},
        state_ages={status: _ages(each, rules.age_bounds) for status, each in state_ages.items()},
        oldest_changes={cell: unix(min(each)) for cell, each in changes.items()},
        newest_changes={cell: unix(max(each)) for cell, each in changes.items()},
        rejected=rejected,
        duplicates=duplicates,
        response_bytes=response_bytes,
    )
    return replace(snapshot, **{table: {} for table in TABLES - rules.tables})


def fields_of(snapshot: Snapshot) -> dict[str, Any]:
    """Every field by name, tables as plain ones without zeros, so that two snapshots can be compared in full."""
    values = {field.name: getattr(snapshot, field.name) for field in fields(snapshot)}
    values["stuck"] = {action: number for action, number in snapshot.stuck.items() if number}
    return {name: dict(value) if hasattr(value, "items") else value for name, value in values.items()}


# --- whether a body is an envelope at all ---


class _Pairs(list[tuple[str, Any]]):
    """An object with each of its keys, also those that stand twice."""


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def is_envelope(body: bytes) -> bool:
    """Whether a body is JSON by the letter, in UTF-8, and one object with a list under the one documented key."""
    try:
        content = json.loads(body.decode(), object_pairs_hook=_Pairs, parse_constant=_no_constant)
    except ValueError:
        return False
    return (
        isinstance(content, _Pairs)
        and [key for key, _ in content] == ["software_deployments"]
        and type(content[0][1]) is list
    )


# --- listings of every kind ---

NASTY = (
    "",
    "},{",
    "}, {",
    "}\n,\n{",
    '"},{"',
    '\\"}, {\\"id\\": \\"x\\"}, {',
    '"}, {"id": "x", "status": "COMPLETE"',
    '{"plays": [{"id": "x", "status": "ok"}, {"id": "y", "status": "ok"}]}',
    "\ud83d\ud83d",
    "]}",
    "[[[{{{",
    "\\",
    '\\\\"',
    "\x00\x1f\x7f",
    "\ud800",
    "\udfff tail",
    "\ufeff😀\u2028é",
    "line\nbreak\ttab\r",
    "NaN",
    "/",
)
TEXTS = st.one_of(st.sampled_from((*NASTY, "x" * 255, "x" * 256)), st.text(max_size=12))
SCALARS = st.one_of(
    TEXTS,
    st.none(),
    st.booleans(),
    st.integers(-300, 300),
    st.sampled_from((2**63, -(2**63) - 1, 2**64, 10**40, -(10**400))),
    st.floats(allow_nan=False, allow_infinity=False),
)
# Deferred, because strategies name all that they are made of, and nobody reads that many names.
ANYTHING = st.deferred(
    lambda: st.recursive(
        SCALARS,
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
        max_leaves=8,
    )
)
_DAYS = ("2023-11-14", "2023-11-14", "2023-11-14", "2015-01-31", "1969-12-31", "0001-01-01", "9999-12-31")
_ODD_DAYS = ("2023-02-29", "2024-02-29", "0000-01-01", "2023-1-4", "20231114", "2023-11-14-1", "２０２３-11-14", "")
_CLOCKS = ("22:13:20", "22:13:20", "21:13:20", "21:13:21", "23:59:59", "00:00:00", "15:18:21", "22:12:20")
_ODD_CLOCKS = ("22:13", "23:59:60", "12:00:61", "24:00:00", "22", "22:60:00", "2:13:20", "22:13:20:1", "221320")
_FRACTIONS = ("", "", "", ".25", ".250000", ".5", ",75", ".1234565", ".9999995", ".00000049999", ".", ".1.2", ".x")
_ZONES = (
    "Z",
    "Z",
    "Z",
    "+00:00",
    "",
    "z",
    "-05:30",
    "+0530",
    "+23:59",
    "-12",
    " Z",
    "+24:00",
    "+10:75",
    "+1:00",
    "UTC",
)
TIMES = st.one_of(
    st.builds(
        "".join,
        st.tuples(
            st.sampled_from(_DAYS + _DAYS + _ODD_DAYS),
            st.sampled_from("TTTTt _"),
            st.sampled_from(_CLOCKS + _CLOCKS + _ODD_CLOCKS),
            st.sampled_from(_FRACTIONS),
            st.sampled_from(_ZONES),
        ),
    ),
    st.datetimes(timezones=st.timezones()).map(datetime.isoformat),
)
NESTED = st.lists(
    st.fixed_dictionaries(
        {"id": TEXTS, "server_id": TEXTS, "status": TEXTS}, optional={"creation_time": TEXTS, "unknown": ANYTHING}
    )
    | st.fixed_dictionaries({"id": st.integers(), "name": TEXTS}),
    min_size=1,
    max_size=5,
)
"""Lists of objects with a deployment's own keys: between two of them it looks like between two records."""
CODES = st.one_of(
    st.integers(-3, 300),
    st.sampled_from(("0", "1", "-1", "-0", "01", "+1", " 1", "1_0", "1.0", "１", "", "9" * 30, "false", "None")),
    SCALARS,
    st.just([]),
    st.just({}),
)
_IDS = st.sampled_from([f"{number}f422fa5-719a-419e-a10c-72e3a367b0b8" for number in range(8)])
_SERVERS = st.sampled_from(("ec14c864", "8da95794", "web-1", "web-2", "}, {"))


def _mostly(*usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """One of these, now and then anything else."""
    return st.one_of(*usual, *usual, st.none(), ANYTHING)


RECORDS = st.fixed_dictionaries(
    {"id": st.one_of(_IDS, _IDS, TEXTS, ANYTHING)},
    optional={
        "server_id": _mostly(_SERVERS),
        "config_id": _mostly(st.just("8da95794-2ad9-4979-8ae5-739ce314c5cd")),
        "status": _mostly(st.sampled_from(sorted(DOCUMENTED_STATUSES)), TEXTS),
        "action": _mostly(st.sampled_from(sorted(DOCUMENTED_ACTIONS)), TEXTS),
        "creation_time": _mostly(TIMES),
        "updated_time": _mostly(TIMES),
        "output_values": _mostly(
            st.fixed_dictionaries({}, optional={"deploy_status_code": CODES, "deploy_stdout": TEXTS, "other": ANYTHING})
        ),
        "status_reason": TEXTS,
        "input_values": st.one_of(ANYTHING, NESTED, st.fixed_dictionaries({"users": NESTED})),
        "unknown": ANYTHING,
    },
)
DOCUMENTED = st.fixed_dictionaries(
    {
        "id": st.uuids().map(str),
        "server_id": _SERVERS,
        "status": st.sampled_from(sorted(DOCUMENTED_STATUSES)),
        "input_values": st.one_of(st.just({}), NESTED),
        "output_values": st.fixed_dictionaries({"deploy_stdout": TEXTS, "deploy_status_code": st.integers(0, 255)}),
        "creation_time": st.just("2023-11-14T21:13:20Z"),
    }
)
"""Records as a cloud writes them, each with the same keys in the same order."""
ITEMS = st.one_of(
    st.lists(st.one_of(RECORDS, RECORDS, RECORDS, ANYTHING), max_size=12),
    st.lists(st.one_of(DOCUMENTED, DOCUMENTED, DOCUMENTED, RECORDS), max_size=20),
)


def _string(text: str, *, ascii: bool, odd: random.Random | None) -> str:
    written = json.dumps(text, ensure_ascii=ascii)
    if odd and odd.random() < 0.3 and '"' not in text and "\\" not in text:
        escaped = (f"\\u{ord(c):04X}" if c < "\x80" and odd.random() < 0.3 else json.dumps(c)[1:-1] for c in text)
        written = f'"{"".join(escaped)}"'.replace("/", "\\/")
    return re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", written)


def write(value: Any, *, ascii: bool, odd: random.Random | None, blank: Callable[[], str]) -> str:
    """JSON with blanks between all tokens; an `odd` writer also escapes what needs none and repeats keys."""

    def pairs(content: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        for key, each in content.items():
            if odd and odd.random() < 0.05:
                yield key, odd.choice((None, "first", 5, {}))
            yield key, each

    def string(text: str) -> str:
        return _string(text, ascii=ascii, odd=odd)

    def whole(value: Any) -> str:
        if isinstance(value, dict):
            inside = (f"{blank()}{string(key)}{blank()}:{blank()}{whole(each)}{blank()}" for key, each in pairs(value))
            return f"{{{','.join(inside) or blank()}}}"
        if isinstance(value, list):
            return f"[{','.join(f'{blank()}{whole(each)}{blank()}' for each in value) or blank()}]"
        return string(value) if isinstance(value, str) else json.dumps(value)

    return whole(value)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A listing's body, in one of the ways in which JSON can be written."""
    odd = random.Random(draw(st.integers(0, 2**32)))
    separator = draw(st.sampled_from(("", " ", "\n", "\t", "\r\n", "odd")))
    ascii = draw(st.booleans())
    plain = draw(st.booleans())

    def blank() -> str:
        return "".join(odd.choices(" \t\n\r", k=odd.choice((0, 0, 1, 5)))) if separator == "odd" else separator

    envelope = {"software_deployments": draw(ITEMS)}
    if plain and separator != "odd":
        indent = separator if separator in {"\t", " "} else None
        text = json.dumps(envelope, indent=indent, ensure_ascii=ascii, separators=None if indent else (",", ":"))
        text = re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text)
        return text.encode()
    # A repeated envelope key is no envelope, so only what is inside may be odd.
    inside = write(envelope["software_deployments"], ascii=ascii, odd=odd, blank=blank)
    parts = ("{", '"software_deployments"', ":", inside, "}")
    return "".join(f"{blank()}{part}" for part in (*parts, "")).encode()


@st.composite
def cuts(draw: st.DrawFn) -> Callable[[bytes], list[bytes]]:
    """A way to cut a body into pieces."""
    size = draw(st.sampled_from((0, 1, 2, 7, 64, 1000, -1)))
    seed = draw(st.integers(0, 2**32))

    def cut(body: bytes) -> list[bytes]:
        if size > 0:
            return [body[start : start + size] for start in range(0, len(body), size)]
        if size == 0:
            return [body]
        choose = random.Random(seed)
        at = sorted(choose.randrange(len(body) + 1) for _ in range(choose.randrange(12)))
        return [body[start:end] for start, end in zip([0, *at], [*at, len(body)], strict=True)]

    return cut
