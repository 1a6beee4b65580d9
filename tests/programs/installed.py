"""The command as a package or an image installed it, run as any other program."""

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.programs.process import Process, eventually, session


@contextmanager
def simulated(command: Sequence[str]) -> Iterator[Path]:
    """A simulated cloud of this command's `simulate`; yields its clouds.yaml, which has the one entry `simulator`."""
    with tempfile.TemporaryDirectory(prefix="simulate-") as name:
        folder = Path(name)
        # Nothing happens in it, so that two exporters see the same.
        with Process("simulate", [*command, "simulate", "--churn", "0"], folder) as process:

            def printed() -> str:
                match = re.search(r"^(clouds:\n.*?)\n\n", process.log.read_text(), re.DOTALL | re.MULTILINE)
                return match[1] if match else ""

            clouds = folder / "clouds.yaml"
            clouds.write_text(eventually(printed, timeout=60, what="clouds.yaml of the simulator"))
            yield clouds


@contextmanager
def serving(command: Sequence[str], port: int, **environment: str) -> Iterator[str]:
    """Runs `serve` of this command on a port of 127.0.0.1 until the end of the block; yields its URL once it is ready.

    The environment is what `serve` is given on top of a plain one, for a command that hands it on.
    """
    with tempfile.TemporaryDirectory(prefix="serve-") as name:
        started = Process("serve", command, Path(name), **environment)
        with started as process:
            url = f"http://127.0.0.1:{port}"
            process.ready(f"{url}/-/ready", timeout=120)
            yield url


def families(url: str) -> set[str]:
    """The names of the metric families on the page of an exporter."""
    with session() as http:
        answer = http.get(f"{url}/metrics", timeout=30)
        answer.raise_for_status()
        return set(re.findall(r"^# TYPE (\S+) ", answer.text, re.MULTILINE))


def same_page(one: str, other: str) -> set[str]:
    """The families on the pages of two exporters of one cloud; an error where they differ in these or in a total.

    Names are looked up after the first refresh, so their families may come a little later.
    """

    def named() -> set[str]:
        found = families(one)
        assert found == families(other)
        return found if {"heat_server_info", "heat_software_config_info"} <= found else set()

    found = eventually(named, timeout=60, what="the families of both pages")
    assert totals(one) == totals(other)
    return found


def totals(url: str) -> dict[str, float]:
    """The deployments that an exporter counts, by project id."""
    with session() as http:
        answer = http.get(f"{url}/metrics", params={"name[]": "heat_software_deployments"}, timeout=30)
        answer.raise_for_status()
        counted: dict[str, float] = {}
        for project, value in re.findall(
            r'^heat_software_deployments\{.*?project_id="(.*?)".*\} (.+)$', answer.text, re.MULTILINE
        ):
            counted[project] = counted.get(project, 0) + float(value)
        return counted
