"""The configuration file: defaults, overrides, and one right line for each mistake."""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.common.errors import ConfigError
from exporter.config.effective import configuration
from exporter.config.schema import Config, NamedProject, load, parse
from exporter.metrics.families import FAMILIES

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
REFRESH = {
    "interval": MINUTE,
    "timeout": 45.0,
    "silence": 45.0,
    "stale_after": 5 * MINUTE,
    "share": 0.25,
    "slow_after": 5.0,
    "discovery": 10 * MINUTE,
}
LIMITS = {
    "requests_per_second": 10.0,
    "response_bytes": 2 * 1024**3,
    "servers": 10000,
    "configs": 200,
    "problems": 200,
}
DEFAULTS: dict[str, Any] = {
    "refresh": REFRESH,
    "limits": LIMITS | {"concurrency": 8, "series": 500000},
    "thresholds": {"stuck_after": HOUR},
    "buckets": {
        "age": (MINUTE, 5 * MINUTE, 15 * MINUTE, 30 * MINUTE, HOUR, 6 * HOUR, DAY, 7 * DAY, 30 * DAY, 365 * DAY),
        "duration": (5.0, 15.0, 30.0, MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 30 * MINUTE, HOUR, 2 * HOUR),
        "deploy_status_code": (0, 1, 2, 125, 126, 127, 128, 137, 143, 255),
    },
    "metrics": {"include": (), "exclude": ()},
    "names": True,
    "shard": {"index": 0, "total": 1},
    "clouds": (
        {
            "name": "envvars",
            "cloud": None,
            "projects": "discover",
            "servers": {"ids": None, "include": (), "exclude": ()},
            "refresh": REFRESH,
            "limits": LIMITS,
        },
    ),
}
"""Every key of the contract with its default."""


@pytest.fixture(autouse=True)
def _no_cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's own OpenStack environment takes part."""
    monkeypatch.delenv("OS_CLOUD", raising=False)


def read(text: str) -> Config:
    """The configuration in this text."""
    return parse(text, source="exporter.yaml", families=[family.name for family in FAMILIES])


def mistakes(text: str) -> list[str]:
    """The lines that say what is wrong with this text, without the file that each begins with."""
    with pytest.raises(ConfigError) as caught:
        read(text)
    lines = str(caught.value).split("\n")
    assert all(line.startswith("exporter.yaml: ") for line in lines)
    return [line.removeprefix("exporter.yaml: ") for line in lines]


def keys(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every key by its path, with its value."""
    if hasattr(value, "model_dump"):
        value = {name: getattr(value, name) for name in type(value).model_fields}
    if isinstance(value, dict):
        for name, each in value.items():
            yield from keys(each, f"{path}.{name}" if path else name)
    elif path == "clouds":
        for at, each in enumerate(value):
            yield from keys(each, f"{path}[{at}]")
    else:
        yield path, value


@pytest.mark.parametrize("text", ["", "{}", "---", "# nothing", "refresh: {}\nlimits: {}\nclouds: [{}]"])
def test_defaults(text: str) -> None:
    """Without a word of configuration every key has the contract's default."""
    found, expected = dict(keys(read(text))), dict(keys(DEFAULTS))
    assert {path: value for path, value in found.items() if value != expected[path]} == {}
    assert set(found) == set(expected)


def test_no_file_is_the_environment() -> None:
    """Without a file there is one cloud, that of the environment."""
    (cloud,) = load(None).clouds
    assert (cloud.name, cloud.cloud, cloud.projects) == ("envvars", None, "discover")


EVERYTHING = """
refresh: {interval: 2m, timeout: 90s, silence: 1m30s, stale_after: 1h, share: 1, slow_after: 500ms, discovery: 1d}
limits: {concurrency: 2, requests_per_second: 0.5, response_bytes: 100MiB, servers: 0}
thresholds: {stuck_after: 2h}
buckets: {age: [1s, 1w], deploy_status_code: [-1, 0]}
metrics: {include: [heat_.*], exclude: [heat_up]}
clouds:
  - name: prod
    cloud: otc
    projects: [8da95794, demo, {name: web, domain: Default}]
    servers: {include: [web-.*], exclude: [web-1, db.*]}
    refresh: {interval: 10m}
    limits: {servers: 5}
  - cloud: other
    projects: current
    servers: {ids: [web-1, "a free string"]}
  - projects: discover
"""


def test_everything_can_be_said() -> None:
    """Every key is taken as it is written, in its unit."""
    found = read(EVERYTHING)
    assert found.refresh.model_dump() == yaml.safe_load(EVERYTHING)["refresh"] | {
        "silence": "1m30s", "timeout": "1m30s", "stale_after": "1h", "share": 1.0
    }  # fmt: skip
    assert (found.refresh.interval, found.refresh.slow_after, found.refresh.discovery) == (120.0, 0.5, DAY)
    assert (found.limits.concurrency, found.limits.requests_per_second, found.limits.servers) == (2, 0.5, 0)
    assert found.limits.response_bytes == 100 * 1024**2
    assert found.thresholds.stuck_after == 2 * HOUR
    assert (found.buckets.age, found.buckets.deploy_status_code) == ((1.0, 7 * DAY), (-1, 0))
    assert (found.metrics.include, found.metrics.exclude) == (("heat_.*",), ("heat_up",))
    prod, other, environment = found.clouds
    assert (prod.name, prod.cloud) == ("prod", "otc")
    assert prod.projects == ("8da95794", "demo", NamedProject(name="web", domain="Default"))
    assert (prod.servers.include, prod.servers.exclude) == (("web-.*",), ("web-1", "db.*"))
    assert (other.name, other.cloud, other.projects) == ("other", "other", "current")
    assert other.servers.ids == ("web-1", "a free string")
    assert prod.servers.ids is environment.servers.ids is None
    assert (environment.name, environment.cloud) == ("envvars", None)


def test_a_cloud_overrides_what_it_names() -> None:
    """A cloud has its own value where it gives one, the general one elsewhere, be that the default or not."""
    prod, other, _ = read(EVERYTHING).clouds
    assert (prod.refresh.interval, prod.refresh.timeout, prod.refresh.silence) == (600.0, 90.0, 90.0)
    assert (prod.limits.servers, prod.limits.requests_per_second) == (5, 0.5)
    assert (other.refresh.interval, other.limits.servers) == (120.0, 0)
    # One that says the default again means it.
    (cloud,) = read("refresh: {interval: 5m}\nclouds: [{refresh: {interval: 60s}}]").clouds
    assert cloud.refresh.interval == 60.0


def test_the_environments_cloud_gives_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """With OS_CLOUD, a cloud without a name or an entry is called like that entry."""
    monkeypatch.setenv("OS_CLOUD", "from-env")
    assert [cloud.name for cloud in read("clouds: [{}, {cloud: otc}, {name: mine}]").clouds] == [
        "from-env",
        "otc",
        "mine",
    ]


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("buckets: {age: [1m, 2h]}", (MINUTE, HOUR, 2 * HOUR)),
        ("buckets: {age: [1m, 1h]}", (MINUTE, HOUR)),
        ("buckets: {age: [1m]}\nthresholds: {stuck_after: 30s}", (30.0, MINUTE)),
        ("buckets: {age: [1m]}\nthresholds: {stuck_after: 1d}", (MINUTE, DAY)),
    ],
)
def test_the_threshold_is_a_bound(text: str, bounds: tuple[float, ...]) -> None:
    """The age at which a deployment is stuck is always a bound of the age histograms, once."""
    assert read(text).age_bounds == bounds


def test_data_may_be_kept_for_less_than_an_interval() -> None:
    """An interval longer than `stale_after` is no mistake: data stays for three intervals then."""
    (cloud,) = read("refresh: {interval: 10m}").clouds
    assert (cloud.refresh.interval, cloud.refresh.stale_after) == (600.0, 300.0)


def test_yaml_merges_keys() -> None:
    """YAML's own way of sharing keys works, and what is written out wins."""
    (cloud,) = read("refresh: &x {interval: 5m, timeout: 1m}\nclouds: [{refresh: {<<: *x, timeout: 2m}}]").clouds
    assert (cloud.refresh.interval, cloud.refresh.timeout) == (300.0, 120.0)


# --- mistakes ---

DURATION = "expected a duration such as 45s, 5m or 1h30m, not "
SIZE = "expected a size such as 500MiB or 2GiB, not "
PROJECT = "expected a project's id or name, or {name: …, domain: …}, not "
PROJECTS = "expected discover, current, or a list of at least one project, not "
TOO_LONG = "expected a duration of at most 292y, not "
RISING = "expected upper bounds in rising order, each once"
PATTERN = "expected a regular expression: "
REPEAT = "nothing to repeat at position 0"
TOP = "expected one of refresh, limits, thresholds, buckets, metrics, names, shard, clouds"
OF_REFRESH = "expected one of interval, timeout, silence, stale_after, share, slow_after, discovery"
TWICE = "expected a different name for each cloud: "
NO_IDS = "expected at least one server's id; without this key all servers count"
EITHER = "expected either ids, or include and exclude: ids name every server that counts"
NOT_EVERYWHERE = (
    "expected no ids where projects is discover, for each would be asked for in every project:"
    " give the servers' projects, or current"
)
NO_FAMILY = "expected the name of a metric family, or a pattern of some: "


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        # Unknown keys.
        ("interval: 5m", ["interval: unknown key; did you mean refresh.interval?"]),
        ("refresh: {intervall: 5m}", ["refresh.intervall: unknown key; did you mean refresh.interval?"]),
        ("limits: {concurency: 5}", ["limits.concurency: unknown key; did you mean limits.concurrency?"]),
        ("clouds: [{projcts: [a]}]", ["clouds[0].projcts: unknown key; did you mean clouds[].projects?"]),
        (
            "clouds: [{}, {name: b, limits: {concurrency: 1}}]",
            ["clouds[1].limits.concurrency: unknown key; did you mean limits.concurrency?"],
        ),
        ("clouds: [{limits: {series: 1}}]", ["clouds[0].limits.series: unknown key; did you mean limits.series?"]),
        ("clouds: [{thresholds: {stuck_after: 1h}}]", ["clouds[0].thresholds: unknown key; did you mean thresholds?"]),
        (
            "clouds: [{servers: {exlude: [a]}}]",
            ["clouds[0].servers.exlude: unknown key; did you mean clouds[].servers.exclude?"],
        ),
        (
            "clouds: [{projects: [{name: a, domain: b, nmae: c}]}]",
            ["clouds[0].projects[0].nmae: unknown key; did you mean clouds[].projects[].name?"],
        ),
        # Nothing is like them.
        (
            "clouds: [{projects: [{name: a, domain: b, id: c}]}]",
            ["clouds[0].projects[0].id: unknown key; expected one of name, domain"],
        ),
        ("colour: red", [f"colour: unknown key; {TOP}"]),
        ("1: 2", [f"[1]: unknown key; {TOP}"]),
        ('"a\\nb": 1', [f"'a\\nb': unknown key; {TOP}"]),
        ("metrics: {only: [a]}", ["metrics.only: unknown key; expected one of include, exclude"]),
        ("refresh: {1: 2}", [f"refresh[1]: unknown key; {OF_REFRESH}"]),
        (
            "clouds: [{region: a}]",
            ["clouds[0].region: unknown key; expected one of name, cloud, projects, servers, refresh, limits"],
        ),
        ("clouds: [{}, {refresh: {rate: 1}}]", [f"clouds[1].refresh.rate: unknown key; {OF_REFRESH}"]),
        # Sections.
        ("refresh: 5", ["refresh: expected keys with their values, not 5"]),
        ("refresh:", ["refresh: expected keys with their values, not None"]),
        ("limits: []", ["limits: expected keys with their values, not []"]),
        ("thresholds: 1h", ["thresholds: expected keys with their values, not '1h'"]),
        ("clouds: [{servers: [web]}]", ["clouds[0].servers: expected keys with their values, not ['web']"]),
        # Durations and sizes.
        ("refresh: {interval: 60}", [f"refresh.interval: {DURATION}60"]),
        ("refresh: {interval: 1:30}", [f"refresh.interval: {DURATION}90"]),
        ("refresh: {interval: soon}", [f"refresh.interval: {DURATION}'soon'"]),
        ("refresh: {interval: null}", [f"refresh.interval: {DURATION}None"]),
        ("refresh: {timeout: true}", [f"refresh.timeout: {DURATION}True"]),
        ("refresh: {silence: -5s}", [f"refresh.silence: {DURATION}'-5s'"]),
        ("refresh: {stale_after: 1.5h}", [f"refresh.stale_after: {DURATION}'1.5h'"]),
        ("refresh: {slow_after: [5s]}", [f"refresh.slow_after: {DURATION}['5s']"]),
        ("refresh: {discovery: 2020-01-01}", [f"refresh.discovery: {DURATION}datetime.date(2020, 1, 1)"]),
        ("thresholds: {stuck_after: 1000y}", [f"thresholds.stuck_after: {TOO_LONG}'1000y'"]),
        ("refresh: {interval: 0s}", ["refresh.interval: expected greater than 0, not '0s'"]),
        ("thresholds: {stuck_after: 0}", ["thresholds.stuck_after: expected greater than 0, not 0"]),
        ("limits: {response_bytes: 5}", [f"limits.response_bytes: {SIZE}5"]),
        ("limits: {response_bytes: 5TB}", [f"limits.response_bytes: {SIZE}'5TB'"]),
        ("limits: {response_bytes: 0B}", ["limits.response_bytes: expected greater than 0, not '0B'"]),
        ("clouds: [{refresh: {interval: 5}}]", [f"clouds[0].refresh.interval: {DURATION}5"]),
        # Numbers.
        ("refresh: {share: 0}", ["refresh.share: expected greater than 0, not 0"]),
        ("refresh: {share: 1.5}", ["refresh.share: expected less than or equal to 1, not 1.5"]),
        ("refresh: {share: '0.5'}", ["refresh.share: expected a number, not '0.5'"]),
        ("refresh: {share: true}", ["refresh.share: expected a number, not True"]),
        ("limits: {requests_per_second: 0}", ["limits.requests_per_second: expected greater than 0, not 0"]),
        ("limits: {requests_per_second: .inf}", ["limits.requests_per_second: expected a finite number, not inf"]),
        ("limits: {requests_per_second: .nan}", ["limits.requests_per_second: expected a finite number, not nan"]),
        ("limits: {concurrency: 0}", ["limits.concurrency: expected greater than or equal to 1, not 0"]),
        ("limits: {concurrency: 1.0}", ["limits.concurrency: expected an integer, not 1.0"]),
        ("limits: {concurrency: '8'}", ["limits.concurrency: expected an integer, not '8'"]),
        ("limits: {servers: -1}", ["limits.servers: expected greater than or equal to 0, not -1"]),
        ("limits: {servers: true}", ["limits.servers: expected an integer, not True"]),
        ("limits: {series: -1}", ["limits.series: expected greater than or equal to 0, not -1"]),
        # Buckets.
        ("buckets: {age: 5m}", ["buckets.age: expected a list, not '5m'"]),
        ("buckets: {age: []}", [f"buckets.age: {RISING}"]),
        ("buckets: {age: [5m, 1m]}", [f"buckets.age: {RISING}"]),
        ("buckets: {age: [5m, 300s]}", [f"buckets.age: {RISING}"]),
        ("buckets: {age: [5m, 10]}", [f"buckets.age[1]: {DURATION}10"]),
        ("buckets: {age: [0s]}", ["buckets.age[0]: expected greater than 0, not '0s'"]),
        ("buckets: {deploy_status_code: [1, 0]}", [f"buckets.deploy_status_code: {RISING}"]),
        ("buckets: {deploy_status_code: [0, 1.5]}", ["buckets.deploy_status_code[1]: expected an integer, not 1.5"]),
        # Metrics.
        ("metrics: {include: heat_up}", ["metrics.include: expected a list, not 'heat_up'"]),
        ("metrics: {include: [5]}", ["metrics.include[0]: expected a text, not 5"]),
        ("metrics: {exclude: [heat_up, nope]}", [f"metrics.exclude: {NO_FAMILY}'nope' is of none"]),
        ("metrics: {include: [heat_u]}", [f"metrics.include: {NO_FAMILY}'heat_u' is of none"]),
        ("metrics: {include: ['*']}", [f"metrics.include[0]: {PATTERN}{REPEAT}"]),
        # Clouds.
        ("clouds: []", ["clouds: expected at least one cloud"]),
        ("clouds:", ["clouds: expected a list, not None"]),
        ("clouds: {name: prod}", ["clouds: expected a list, not {'name': 'prod'}"]),
        ("clouds: [prod]", ["clouds[0]: expected keys with their values, not 'prod'"]),
        ("clouds: [{name: ''}]", ["clouds[0].name: expected at least 1 character, not ''"]),
        ("clouds: [{name: 5}]", ["clouds[0].name: expected a text, not 5"]),
        ("clouds: [{cloud: [a]}]", ["clouds[0].cloud: expected a text, not ['a']"]),
        ("clouds: [{name: a}, {name: b}, {name: a}]", [f"clouds: {TWICE}'a' is there twice"]),
        ("clouds: [{cloud: a}, {name: a}]", [f"clouds: {TWICE}'a' is there twice"]),
        ("clouds: [{}, {}]", [f"clouds: {TWICE}'envvars' is there twice"]),
        ("clouds: [{servers: {exclude: [a, '?']}}]", [f"clouds[0].servers.exclude[1]: {PATTERN}{REPEAT}"]),
        ("clouds: [{projects: current, servers: {ids: []}}]", [f"clouds[0].servers.ids: {NO_IDS}"]),
        ("clouds: [{projects: current, servers: {ids: a}}]", ["clouds[0].servers.ids: expected a list, not 'a'"]),
        ("clouds: [{projects: current, servers: {ids: [a, 5]}}]", ["clouds[0].servers.ids[1]: expected a text, not 5"]),
        (
            "clouds: [{projects: [p], servers: {ids: [a, '']}}]",
            ["clouds[0].servers.ids[1]: expected at least 1 character, not ''"],
        ),
        (
            "clouds: [{projects: [p], servers: {ids: [a, b, c, b, a]}}]",
            ["clouds[0].servers.ids: expected each server once: 'a' is there twice"],
        ),
        ("clouds: [{projects: [p], servers: {ids: [a], include: [b]}}]", [f"clouds[0].servers: {EITHER}"]),
        ("clouds: [{projects: [p], servers: {ids: [a], exclude: [b]}}]", [f"clouds[0].servers: {EITHER}"]),
        ("clouds: [{projects: discover, servers: {ids: [a]}}]", [f"clouds[0].servers: {NOT_EVERYWHERE}"]),
        ("clouds: [{servers: {ids: [a]}}]", [f"clouds[0].servers: {NOT_EVERYWHERE}"]),
        ("clouds: [{projects: 5, servers: {ids: [a]}}]", [f"clouds[0].projects: {PROJECTS}5"]),
        # Projects.
        ("clouds: [{projects: []}]", [f"clouds[0].projects: {PROJECTS}[]"]),
        ("clouds: [{projects: all}]", [f"clouds[0].projects: {PROJECTS}'all'"]),
        ("clouds: [{projects: 5}]", [f"clouds[0].projects: {PROJECTS}5"]),
        ("clouds: [{projects: {name: a}}]", [f"clouds[0].projects: {PROJECTS}{{'name': 'a'}}"]),
        ("clouds: [{projects: [1]}]", [f"clouds[0].projects[0]: {PROJECT}1"]),
        ("clouds: [{projects: [a, [b]]}]", [f"clouds[0].projects[1]: {PROJECT}['b']"]),
        ("clouds: [{projects: [null]}]", [f"clouds[0].projects[0]: {PROJECT}None"]),
        ("clouds: [{projects: ['']}]", ["clouds[0].projects[0]: expected at least 1 character, not ''"]),
        ("clouds: [{projects: [{name: a}]}]", ["clouds[0].projects[0].domain: expected this key as well"]),
        ("clouds: [{projects: [{name: 5, domain: b}]}]", ["clouds[0].projects[0].name: expected a text, not 5"]),
        # Shards.
        ("shard: {index: 3, total: 3}", ["shard: expected an index below total (3), not 3"]),
        ("shard: {index: -1}", ["shard.index: expected a number from 0, or auto, not -1"]),
        ("shard: {index: true}", ["shard.index: expected a number from 0, or auto, not True"]),
        ("shard: {total: 0}", ["shard.total: expected greater than or equal to 1, not 0"]),
        # Several at once: one line for each, in the order of the keys.
        (
            "refresh: {interval: 5, share: 2}\nclouds: [{projects: [1, {name: a}]}]\nx: 1",
            [
                f"refresh.interval: {DURATION}5",
                "refresh.share: expected less than or equal to 1, not 2",
                f"clouds[0].projects[0]: {PROJECT}1",
                "clouds[0].projects[1].domain: expected this key as well",
                f"x: unknown key; {TOP}",
            ],
        ),
    ],
)  # fmt: skip
def test_each_mistake_has_one_line(text: str, lines: list[str]) -> None:
    """A mistake is refused with the file, the key's path and what was expected: in one line, and no other line."""
    assert mistakes(text) == lines


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("refresh: [", "line 1, column 11: not YAML: "),
        ("a: b: c", "line 1, column 5: not YAML: "),
        ("a: 'b", "line 1, column 6: not YAML: "),
        ("\tclouds: []", "line 1, column 1: not YAML: "),
        ("refresh: {interval: 1m}\nrefresh: {}", "line 2, column 1: not YAML: the key 'refresh' stands twice"),
        ("refresh: {interval: 1m, interval: 2m}", "line 1, column 25: not YAML: the key 'interval' stands twice"),
        ("clouds:\n- name: a\n  name: b", "line 3, column 3: not YAML: the key 'name' stands twice"),
        ("? [a]\n: 1", "line 1, column 3: not YAML: "),
        ("a: *b", "line 1, column 4: not YAML: "),
        ("--- {}\n--- {}", "line 2, column 1: not YAML: "),
        ("a: !!python/object/apply:os.system [id]", "line 1, column 4: not YAML: "),
        ("a: 2020-13-45", "not YAML: "),
        ("a: !!int x", "not YAML: "),
        ("\x00", "not YAML: "),
        ("[" * 700, "too deeply nested"),
        ("- clouds", "expected keys such as refresh and clouds, not list"),
        ("clouds", "expected keys such as refresh and clouds, not str"),
        ("5", "expected keys such as refresh and clouds, not int"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_no_configuration_at_all(text: str, line: str) -> None:
    """What is not YAML, says a key twice, or is no table of keys is refused in one line that says where."""
    (found,) = mistakes(text)
    assert found.startswith(line)


KEYS = (
    "refresh", "limits", "buckets", "age", "interval", "clouds", "projects", "servers", "include", "name", "cloud",
    "domain", "metrics", "thresholds", "shard", "total",
)  # fmt: skip
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.dates(),
    st.text(max_size=5),
    st.sampled_from(("5m", "2GiB", "discover", "heat_up")),
)
CONTENTS = st.recursive(
    VALUES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=40), CONTENTS.map(yaml.safe_dump)))
def test_any_text_is_taken_or_refused(text: str) -> None:
    """Whatever a file says, it is a configuration or a ConfigError that names the file on each of its lines."""
    try:
        lines = ["exporter.yaml: " * bool(read(text).clouds)]
    except ConfigError as error:
        lines = str(error).split("\n")
    assert [line for line in lines if not line.startswith("exporter.yaml: ")] == []


# --- files ---


def test_a_file(tmp_path: Path) -> None:
    """A configuration is read from its file, in UTF-8."""
    path = tmp_path / "exporter.yaml"
    path.write_text("clouds: [{name: größe}]", encoding="utf-8")
    assert load(path).clouds[0].name == load(str(path)).clouds[0].name == "größe"


def test_errors_name_the_file(tmp_path: Path) -> None:
    """What is wrong with a file is said with its path."""
    path = tmp_path / "exporter.yaml"
    path.write_text("clouds: []\nx: 1", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).split("\n") == [
        f"{path}: clouds: expected at least one cloud",
        f"{path}: x: unknown key; {TOP}",
    ]


@pytest.mark.parametrize("kind", ["missing", "directory", "bytes"])
def test_a_file_that_cannot_be_read(tmp_path: Path, kind: str) -> None:
    """A file that is not there, is a directory or no text is refused in one line."""
    path = tmp_path / "exporter.yaml"
    if kind == "directory":
        path.mkdir()
    elif kind == "bytes":
        path.write_bytes(b"name: \xff")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: can't be read: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "shard: {total: 2}", "shard: {index: 1, total: 9}", "shard: 5"])
def test_the_command_line_overrides_the_shard(text: str) -> None:
    """What the command line says of the shard holds, whatever the file says of it, and is checked like that."""
    shard = parse(text, source="exporter.yaml", shard={"index": 3, "total": 4}).shard
    assert (shard.index, shard.total) == (3, 4)
    with pytest.raises(ConfigError, match=r"^exporter.yaml: shard: expected an index below total \(4\), not 4$"):
        parse(text, source="exporter.yaml", shard={"index": 4, "total": 4})


def test_an_index_from_the_host_name() -> None:
    """`auto` is the number that ends the host name; without one it is refused like any mistake."""
    number = re.search(r"\d+$", socket.gethostname().split(".")[0])
    text = "shard: {index: auto, total: 1000000000}"
    if number:
        assert read(text).shard.index == int(number[0])
    else:
        (line,) = mistakes(text)
        assert line.startswith("shard.index: auto: expected a host name that ends in a number, not ")


# --- what follows from it ---


def test_a_configuration_cannot_be_changed() -> None:
    """What was checked stays as it was."""
    found = read("")
    with pytest.raises(ValueError, match="frozen"):
        found.refresh.interval = 5.0


@pytest.mark.parametrize(
    "text",
    [
        "refresh: {interval: 61s}",
        "limits: {concurrency: 9}",
        "clouds: [{name: a}]",
        "clouds: [{servers: {exclude: [a]}}]",
        "clouds: [{projects: current, servers: {ids: [a]}}]",
        "clouds: [{projects: [a]}]",
        "clouds: [{projects: [{name: a, domain: b}]}]",
        "metrics: {exclude: [heat_up]}",
        "clouds: [{refresh: {interval: 61s}}]",
    ],
)
def test_the_digest_tells_configurations_apart(text: str) -> None:
    """Equal configurations have an equal number, however they are written; another key, another number."""
    assert read(text).digest() != read("").digest()
    assert read(text).digest() == read(f"# a comment\n{text}\n").digest()


def test_all_shards_of_one_configuration_have_its_digest() -> None:
    """The index of a shard is no part of the configuration that the shards have in common; their number is."""
    digests = {parse("", source="x", shard={"index": index, "total": 3}).digest() for index in range(3)}
    assert len(digests) == 1
    assert digests == {read("shard: {index: 2, total: 3}").digest()}
    assert digests.isdisjoint({read("").digest(), read("shard: {index: 2, total: 4}").digest()})


def test_the_digest_is_a_sample_value() -> None:
    """The number is whole and a double holds it exactly, so that it survives on the page."""
    assert read("refresh: {interval: 60s}").digest() == read("refresh: {interval: 1m}").digest()
    assert read("").digest() == int(read("").digest()) < 2**48


def test_it_can_be_written_again() -> None:
    """What is shown of a configuration has its durations and sizes as people write them."""
    shown = json.loads(read(EVERYTHING).model_dump_json())
    assert shown["refresh"]["interval"] == "2m"
    assert shown["limits"]["response_bytes"] == "100MiB"
    assert shown["clouds"][0]["refresh"] == shown["refresh"] | {"interval": "10m"}
    assert shown["clouds"][0]["projects"] == ["8da95794", "demo", {"name": "web", "domain": "Default"}]


@pytest.mark.parametrize("text", ["", EVERYTHING])
def test_what_is_shown_says_the_same(text: str) -> None:
    """The configuration in force, as it is shown, is a file that is accepted and says the same."""
    shown = configuration(read(text))
    assert read(shown).model_dump() == read(text).model_dump()


def test_every_family_can_be_chosen() -> None:
    """Each family's own name is accepted as a pattern."""
    names = [family.name for family in FAMILIES]
    assert read(json.dumps({"metrics": {"include": names, "exclude": names}})).metrics.include == tuple(names)


def bomb(levels: int) -> str:
    """A few lines of YAML whose last name stands for nine to the power of so many texts."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, levels)]
    return "\n".join(lines)


HUGE = f"0x{'f' * 6000}"
"""A number of more digits than Python writes."""


@pytest.mark.parametrize(
    "rest",
    [
        "refresh: {interval: *a11}",
        "names: *a11",
        "clouds: [{projects: {a: *a11}}]",
        "clouds: [{projects: [*a11]}]",
        "clouds: *a11",
        "limits: {response_bytes: *a11}",
        "shard: {index: *a11}",
        "metrics: {include: *a11}",
        "buckets: {deploy_status_code: *a11}",
    ],
)
def test_what_names_itself_over_and_over_is_refused_briefly(rest: str) -> None:
    """A value that a few lines make of billions of others is refused like any other wrong one, in short lines."""
    found = mistakes(f"{bomb(12)}\n{rest}")
    assert [line for line in found if not line.startswith("a")]
    assert max(map(len, found)) < 250


@pytest.mark.parametrize("key", ["limits.concurrency", "limits.requests_per_second", "limits.series", "names",
                                 "refresh.interval", "limits.response_bytes", "shard.index", "shard.total",
                                 "limits.servers", "buckets.age"])  # fmt: skip
@pytest.mark.parametrize("number", [HUGE, f"-{HUGE}"], ids=["large", "small"])
def test_a_number_without_end_is_refused(key: str, number: str) -> None:
    """A number that can't even be written is refused as any other wrong value, by the key's name."""
    first, _, last = key.partition(".")
    (line,) = mistakes(f"{first}: {{{last}: {number}}}" if last else f"{first}: {number}")
    assert line.startswith((f"{key}: expected ", "shard: expected an index below"))


@pytest.mark.parametrize("pattern", ["(" * 5000, f"{'(' * 5000}{')' * 5000}", "a{99999999999999999999}"])
def test_a_pattern_that_can_t_be_read_at_all_is_refused(pattern: str) -> None:
    """A pattern that is nested too deeply or repeats too often is refused as any other that is none."""
    (line,) = mistakes(f"metrics: {{include: ['{pattern}']}}")
    assert line.startswith("metrics.include[0]: expected a regular expression")


def test_a_file_without_end_is_refused() -> None:
    """No more of a file is read than any configuration may have."""
    with pytest.raises(ConfigError, match=r"^/dev/zero: larger than 16MiB$"):
        load("/dev/zero")
