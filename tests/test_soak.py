"""The whole system under load: a thousand refreshes of a cloud in which all sorts of things happen (`tests.soak`)."""

import sys
from pathlib import Path

import pytest

from tests import harness
from tests.soak.run import Options, soak

pytestmark = harness.sdk_warning
SEED = sys.version_info.minor
"""Another life on another Python."""


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "options",
    [Options(seed=SEED, refreshes=1000), Options(seed=SEED, refreshes=150, inside=True)],
    ids=["process", "inside"],
)
async def test_soak(options: Options, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every page says what the cloud held, no counter goes down, and nothing grows, whatever happens meanwhile."""
    print(options.command)
    harness.isolate(monkeypatch, tmp_path)
    print(await soak(options, tmp_path, monkeypatch))
