"""A real VictoriaMetrics that scrapes what a test tells it to."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.programs.available import OLDEST
from tests.programs.prometheus import Prometheus
from tests.programs.service import Service

Json = Any


class VictoriaMetrics(Prometheus):
    """A VictoriaMetrics with storage of its own, from entering the context until leaving it; asked as Prometheus is."""

    name = "victoriametrics"

    def __init__(self, scrape_configs: Sequence[Json], *, interval: str = "1s", release: str = OLDEST) -> None:
        """Scrapes every `interval`, which is also the longest that a scrape may take."""
        config = {
            "global": {"scrape_interval": interval, "scrape_timeout": interval},
            "scrape_configs": list(scrape_configs),
        }
        Service.__init__(self, config, release=release)

    def options(self, file: Path, data: Path) -> list[str]:
        """Where its data is, and that it tells at once what it has scraped."""
        return [
            f"-promscrape.config={file}",
            f"-httpListenAddr={self.address}",
            f"-storageDataPath={data}",
            "-search.latencyOffset=0s",
            "-search.disableCache",
        ]
