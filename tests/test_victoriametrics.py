"""VictoriaMetrics, which asks for another format than Prometheus, and what it makes of the same page."""

import asyncio

import pytest
from prometheus_client.samples import Sample

from tests import harness
from tests.harness import FIRST, ONCE, Cloud, configuration
from tests.programs.available import releases, require
from tests.programs.process import eventually
from tests.programs.prometheus import Prometheus
from tests.programs.victoriametrics import VictoriaMetrics
from tests.test_probe import fill, serving
from tests.test_real import Series, get, key, series

cloud = harness.cloud
pytestmark = harness.sdk_warning


@pytest.fixture(params=releases("victoriametrics"))
def release(request: pytest.FixtureRequest) -> str:
    """A release of both programs after the other."""
    for program in ("prometheus", "victoriametrics"):
        require(program, request.param)
    return str(request.param)


def stored(server: Prometheus) -> Series:
    """Every series of the exporter that a server has, without what it has added."""
    found: Series = {}
    for each in server.query('{__name__=~"heat_.*"}'):
        labels = {name: value for name, value in each.labels.items() if name not in ("__name__", "job", "instance")}
        found[key(Sample(each.labels["__name__"], labels, 0))] = each.value
    return found


async def test_it_has_what_prometheus_has(cloud: Cloud, release: str) -> None:
    """The series that VictoriaMetrics scrapes, which gets the text format, are those of a Prometheus, which asks for
    OpenMetrics, with the same values; and both are those of the page."""
    fill(cloud)
    async with serving(cloud, configuration(refresh=ONCE)) as exporter:
        await exporter.fleet.wait_ready()
        await exporter.when(lambda page: page.select("heat_software_config_info", project=FIRST))
        jobs = [{"job_name": "heat", "static_configs": [{"targets": [exporter.url.removeprefix("http://")]}]}]

        def compare() -> None:
            with Prometheus(jobs, release=release) as prometheus, VictoriaMetrics(jobs, release=release) as victoria:

                def same() -> bool:
                    page = series(get(f"{exporter.url}/metrics", Accept="text/plain"))
                    shown = {
                        (name, frozenset(pair for pair in labels if pair[1])): value  # to both an empty label is none
                        for (name, labels), value in page.items()
                        if name.startswith("heat_")
                    }
                    assert len(shown) > 300
                    assert stored(prometheus) == shown
                    found = stored(victoria)
                    assert found.keys() == shown.keys()
                    # It keeps twelve digits, not all.
                    assert found == {each: pytest.approx(value, rel=1e-11) for each, value in shown.items()}
                    return True

                eventually(same, timeout=60, interval=0.5)

        await asyncio.to_thread(compare)
