"""What worked with an earlier release works with this one, or says which key to change.

`tests/configurations` has a folder for each release, with configurations as its users may have them, and beside each
what that release made of it (`python -m tests.test_upgrades` writes that for the release at hand). A folder of a
release that is out is never changed.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter import __version__
from exporter.common.errors import ConfigError
from exporter.config.schema import Config, key_paths, load

RELEASES = Path(__file__).parent / "configurations"
NEWEST = RELEASES / __version__
FILES = sorted(RELEASES.glob("*/*.yaml"))
HOST = {"index": 2}
"""What `auto` stands for here."""


def values(path: Path) -> dict[str, Any]:
    """What a configuration says, defaults included."""
    config = load(path, shard=HOST if "auto" in path.stem else None)
    return config.model_dump(mode="json", exclude={"shard"} if "auto" in path.stem else None)


def lost(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """The keys that had another value before."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key, value in before.items():
            yield from lost(value, now[key], f"{path}.{key}") if key in now else (f"{path}.{key} is gone",)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for place, (one, other) in enumerate(zip(before, now, strict=True)):
            yield from lost(one, other, f"{path}[{place}]")
    elif before != now:
        yield f"{path}: {before!r} before, {now!r} now"


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_configuration_of_an_earlier_release(path: Path) -> None:
    """It is read and means what it meant; or each line of the refusal names a key and what to use instead."""
    try:
        now = values(path)
    except ConfigError as error:
        for line in str(error).splitlines():
            assert re.search(r"\S+: .*(did you mean|use|expected one of) \S+", line), line
    else:
        before = json.loads(path.with_suffix(".json").read_text())
        assert list(lost(before, now)) == []


def test_this_release_has_its_examples() -> None:
    """The release at hand has a folder, and one of its configurations has every key that there is."""
    content = yaml.safe_load((NEWEST / "every-key.yaml").read_text())

    def keys(value: Any, prefix: str = "") -> Iterator[str]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield f"{prefix}{key}"
                yield from keys(inner, f"{prefix}{key}.")
        elif isinstance(value, list):
            for inner in value:
                yield from keys(inner, f"{prefix.removesuffix('.')}[].")

    # A project's name and domain are part of a value.
    found = {key for key in keys(content) if not key.startswith("clouds[].projects[]")}
    assert found == set(key_paths(Config))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("refresh: {intervall: 5m}", "refresh.intervall: unknown key; did you mean refresh.interval?"),
        ("clouds: [{stale_after: 5m}]", "clouds[0].stale_after: unknown key; did you mean refresh.stale_after?"),
    ],
)
def test_a_key_that_has_moved(tmp_path: Path, text: str, line: str) -> None:
    """A key that this release has elsewhere, or under a name like it, is refused with where that is."""
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert str(refused.value) == f"{path}: {line}"


if __name__ == "__main__":
    for each in sorted(NEWEST.glob("*.yaml")):
        each.with_suffix(".json").write_text(json.dumps(values(each), indent=1, ensure_ascii=False) + "\n")
