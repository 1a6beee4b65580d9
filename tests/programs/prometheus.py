"""A real Prometheus that scrapes what a test tells it to, and promtool."""

import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.programs.available import OLDEST, find
from tests.programs.process import eventually
from tests.programs.service import Service

Json = Any


@dataclass(frozen=True, slots=True)
class Sample:
    """One series of an answer, with its name among the labels as `__name__`."""

    labels: Mapping[str, str]
    value: float


class Prometheus(Service):
    """A Prometheus with storage of its own, from entering the context until leaving it."""

    name = "prometheus"

    def __init__(
        self,
        scrape_configs: Sequence[Json],
        *,
        interval: str = "1s",
        rule_files: Iterable[Path] = (),
        alertmanagers: Iterable[str] = (),
        features: Iterable[str] = (),
        release: str = OLDEST,
    ) -> None:
        """Scrapes every `interval`, which is also the longest that a scrape may take; rules go by the same clock.

        Alerts go to the Alertmanagers at these addresses (host and port).
        """
        config = {
            "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
            "rule_files": [str(path) for path in rule_files],
            "scrape_configs": list(scrape_configs),
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": list(alertmanagers)}]}]},
        }
        super().__init__(config, release=release)
        self._features = tuple(features)

    def options(self, file: Path, data: Path) -> list[str]:
        """Where its data is, and what it is to do besides."""
        features = (f"--enable-feature={feature}" for feature in self._features)
        return [*super().options(file, data), f"--storage.tsdb.path={data}", *features]

    def api(self, path: str, **parameters: str) -> Json:
        """The data of an answer of `/api/v1/<path>`; a refused request raises with what Prometheus said."""
        answer = self._http.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30)
        body = answer.json()
        if body["status"] != "success":
            raise RuntimeError(f"{path} {parameters}: {body['error']}")
        return body["data"]

    def query(self, expression: str) -> list[Sample]:
        """The instant vector (or the scalar, as one sample without labels) of an expression, now."""
        data = self.api("query", query=expression)
        if data["resultType"] == "scalar":
            return [Sample({}, float(data["result"][1]))]
        return [Sample(item["metric"], float(item["value"][1])) for item in data["result"]]

    def metadata(self) -> dict[str, list[dict[str, str]]]:
        """Type, help and unit of every metric family scraped so far."""
        return dict(self.api("metadata"))

    def targets(self) -> list[dict[str, Json]]:
        """The targets it scrapes, each with `health` and `lastError`."""
        return list(self.api("targets")["activeTargets"])

    def wait_until(
        self, expression: str, predicate: Callable[[list[Sample]], bool] = bool, timeout: float = 60.0
    ) -> list[Sample]:
        """The first answer that `predicate` finds true; otherwise an error with the last answer and the targets.

        A scrape is not to be expected within the first five seconds: Prometheus looks for targets that often.
        """
        answer: list[Sample] = []

        def found() -> bool:
            nonlocal answer
            answer = self.query(expression)
            return predicate(answer)

        try:
            eventually(found, timeout=timeout, what=expression)
        except AssertionError as error:
            errors = [f"{target['scrapeUrl']}: {target['health']} {target['lastError']}" for target in self.targets()]
            raise AssertionError(f"{error}\nanswer: {answer}\ntargets: {errors}") from None
        return answer


@dataclass(frozen=True, slots=True)
class Promtool:
    """The promtool of a release."""

    release: str = OLDEST

    def __call__(self, *arguments: str, stdin: bytes = b"") -> tuple[int, str]:
        """Exit code and output (both streams) of a call."""
        command = find("promtool", self.release).command(*arguments)
        done = subprocess.run(
            command, check=False, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60
        )
        return done.returncode, done.stdout.decode(errors="replace")

    def check_metrics(self, exposition: bytes) -> tuple[int, str]:
        """What `promtool check metrics` says of a page in the text format: 0 means nothing to complain about."""
        return self("check", "metrics", stdin=exposition)
