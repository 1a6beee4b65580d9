"""The web side over sockets: formats and encodings, filters, headers, health and readiness."""

import asyncio
import gzip
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from exporter.cli.serve import Address, listening
from exporter.collector.collector import Collector
from exporter.metrics.text_format import CONTENT_TYPES
from exporter.web.app import Server
from tests import harness
from tests.harness import (
    DEADLINE,
    FIRST,
    ONCE,
    OPENMETRICS,
    SECOND,
    Answer,
    Cloud,
    Exporter,
    Hold,
    Samples,
    configuration,
    plain,
    scraper,
)

cloud = harness.cloud
pytestmark = harness.sdk_warning

FORMATS = {"text": "text/plain", "openmetrics": OPENMETRICS}
DEPLOYMENTS = "heat_software_deployments"


@asynccontextmanager
async def still(cloud: Cloud, **sections: object) -> AsyncIterator[Exporter]:
    """An exporter that has asked everything once and whose page stands still."""
    cloud.deploy(status="FAILED", action="UPDATE", code=2)
    # Names would come onto the page after the refresh.
    async with cloud.exporter(configuration(refresh=ONCE, **{"names": False, **sections})) as exporter:  # type: ignore[arg-type]
        await asyncio.wait_for(exporter.fleet.wait_ready(), DEADLINE)
        yield exporter


# -- /metrics


@pytest.mark.parametrize("form", FORMATS)
async def test_a_page_is_the_same_in_every_encoding(cloud: Cloud, form: str):
    """Compressed and plain pages are the same bytes but for `process_*` and `python_*`; so are two scrapes in a row."""
    async with still(cloud) as exporter:
        bare = await exporter.get(Accept=FORMATS[form])
        packed = await exporter.get(Accept=FORMATS[form], Accept_Encoding="gzip")
        assert "Content-Encoding" not in bare.headers
        assert packed.headers["Content-Encoding"] == "gzip"
        assert packed.raw != bare.raw
        assert len(packed.raw) < len(bare.raw) / 2
        assert plain(gzip.decompress(packed.raw)) == plain(bare.raw)
        assert plain((await exporter.get(Accept=FORMATS[form])).raw) == plain(bare.raw)
        assert len(plain(bare.raw)) > 1000
        assert len(plain(bare.raw)) < len(bare.raw)


async def test_both_formats_say_the_same(cloud: Cloud):
    """What the text format shows, OpenMetrics does too, sample for sample, save how gauge histograms are told."""
    async with still(cloud) as exporter:
        text = Samples.of((await exporter.get()).text)
        openmetrics = Samples.of((await exporter.get(Accept=OPENMETRICS)).text, openmetrics=True)

    def own(page: Samples) -> set[tuple[str, str, float]]:
        return {
            (name, str(sorted(labels.items())), value)
            for name, labels, value in page
            if not name.startswith(("process_", "python_"))
        }

    assert own(text) == own(openmetrics)
    assert len(own(text)) > 100


@pytest.mark.parametrize("form", FORMATS)
async def test_the_headers_tell_the_truth(cloud: Cloud, form: str):
    """Content-Type is the format's own, Vary names what the answer depends on, Content-Length is right."""
    async with still(cloud) as exporter:
        for encoding in ("gzip", "identity"):
            answer = await exporter.get(Accept=FORMATS[form], Accept_Encoding=encoding)
            assert answer.headers["Content-Type"] == CONTENT_TYPES[form]  # type: ignore[index]
            assert {part.strip().lower() for part in answer.headers["Vary"].split(",")} == {"accept", "accept-encoding"}
            assert int(answer.headers["Content-Length"]) == len(answer.raw)
        version = "1.0.0" if form == "openmetrics" else "0.0.4"
        assert f"version={version}" in answer.headers["Content-Type"]


async def test_the_version_is_never_an_echo(cloud: Cloud):
    """Whatever version of OpenMetrics is asked for, the answer's is 1.0.0."""
    async with still(cloud) as exporter:
        answer = await exporter.get(Accept="application/openmetrics-text;version=0.0.1")
        assert answer.headers["Content-Type"] == CONTENT_TYPES["openmetrics"]


async def test_openmetrics_ends_as_it_should(cloud: Cloud):
    """An OpenMetrics page ends with one `# EOF`, a text page has none; neither has `_created` or timestamps."""
    async with still(cloud) as exporter:
        text, openmetrics = (await exporter.get()).text, (await exporter.get(Accept=OPENMETRICS)).text
    assert openmetrics.endswith("\n# EOF\n")
    assert openmetrics.count("# EOF") == 1
    assert "# EOF" not in text
    for page in (text, openmetrics):
        assert not re.search(r"^heat_\w+_created\b", page, re.MULTILINE)
        samples = [line for line in page.splitlines() if line.startswith("heat_")]
        assert samples
        assert all(len(re.sub(r"\{.*\}", "", line.split(" # ")[0]).split()) == 2 for line in samples)


async def test_head_is_get_without_a_body(cloud: Cloud):
    """HEAD has GET's status and headers, and no body."""
    async with still(cloud) as exporter:
        for path in ("/metrics", "/metrics?name[]=heat_up", "/", "/-/healthy", "/-/ready"):
            got = await exporter.get(path)
            head = await exporter.get(path, method="HEAD")
            assert (head.status, head.raw) == (200, b""), path
            assert head.headers["Content-Type"] == got.headers["Content-Type"]
            assert int(head.headers["Content-Length"]) > 0


# -- name[]


async def named(exporter: Exporter, *names: str, form: str = "text", encoding: str = "identity") -> Answer:
    """A page of these names."""
    query = "&".join(f"name[]={name}" for name in names)
    answer = await exporter.get(f"/metrics?{query}", Accept=FORMATS[form], Accept_Encoding=encoding)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == CONTENT_TYPES[form]  # type: ignore[index]
    return answer


def families(answer: Answer) -> set[str]:
    """The families that a page has headers of."""
    return set(re.findall(r"^# TYPE (\S+) ", answer.text, re.MULTILINE))


AGE = "heat_software_deployment_age_seconds"


SELECTED = {
    "heat_up": {"heat_up"},
    "heat_refreshes_total": {"heat_refreshes_total"},
    "heat_refreshes": {"heat_refreshes_total"},
    "heat_refresh_duration_seconds": {"heat_refresh_duration_seconds"},
    "heat_refresh_duration_seconds_bucket": {"heat_refresh_duration_seconds"},
    "heat_refresh_duration_seconds_count": {"heat_refresh_duration_seconds"},
    AGE: {AGE, f"{AGE}_gcount", f"{AGE}_gsum"},
    f"{AGE}_bucket": {AGE, f"{AGE}_gcount", f"{AGE}_gsum"},
    f"{AGE}_gcount": {AGE, f"{AGE}_gcount", f"{AGE}_gsum"},
    "process_start_time_seconds": {"process_start_time_seconds"},
    "process_cpu_seconds_total": {"process_cpu_seconds_total"},
    "python_info": {"python_info"},
    "heat_nonsense": set(),
    "heat_u": set(),
    "heat_up_": set(),
    "": set(),
}


async def test_a_name_selects_its_whole_family(cloud: Cloud):
    """A family's or a sample's name selects the whole family with its headers; an unknown one selects nothing."""
    async with still(cloud) as exporter:
        whole = set((await exporter.get()).text.splitlines())
        for name, expected in SELECTED.items():
            text = await named(exporter, name)
            assert families(text) == expected, name
            lines = {line for line in text.text.splitlines() if not line.startswith(("process_", "# "))}
            assert lines <= whole
            assert bool(text.text) == bool(expected)
            openmetrics = await named(exporter, name, form="openmetrics")
            assert openmetrics.text.endswith("# EOF\n")
            assert openmetrics.text.count("# EOF") == 1
            Samples.of(openmetrics.text, openmetrics=True)
            assert bool(families(openmetrics)) == bool(expected)
            packed = await named(exporter, name, encoding="gzip")
            assert plain(packed.body) == plain(text.raw)
            assert packed.headers["Content-Encoding"] == "gzip"


async def test_several_names_select_each(cloud: Cloud):
    """`name[]` may be repeated; our own families and the process's are mixed as asked, unknown ones add nothing."""
    async with still(cloud) as exporter:
        names = ("heat_up", "nonsense", "process_open_fds", DEPLOYMENTS, "heat_up")
        for form in FORMATS:
            answer = await named(exporter, *names, form=form)
            assert families(answer) == {"heat_up", "process_open_fds", DEPLOYMENTS}
            page = Samples.of(answer.text, openmetrics=form == "openmetrics")
            assert page.value("heat_up", project=FIRST) == 1
            assert page.value("process_open_fds") > 0


async def test_families_that_are_excluded_cannot_be_named(cloud: Cloud):
    """What `metrics.exclude` leaves out is not to be had by its name either."""
    async with still(cloud, metrics={"exclude": ["heat_up"]}) as exporter:
        assert families(await named(exporter, "heat_up")) == set()
        assert families(await named(exporter, "heat_refreshes_total")) == {"heat_refreshes_total"}


# -- other pages


async def test_other_paths_are_404(cloud: Cloud):
    """A path that is not documented is a 404."""
    async with still(cloud) as exporter:
        for path in ("/nonsense", "/metrics/", "/-/", "/-/nonsense", "/favicon.ico", "/%2e%2e/etc/passwd"):
            assert (await exporter.get(path)).status == 404, path


async def test_the_telemetry_path_is_the_callers(cloud: Cloud):
    """The metrics are where they are wanted and nowhere else, and the landing page links there."""
    async with cloud.fleet() as fleet:
        await fleet.once()
        server = Server(fleet, telemetry_path="/own/metrics")
        async with listening(server, [Address("127.0.0.1", 0)]) as ports, scraper() as session:
            exporter = Exporter(f"http://127.0.0.1:{ports[0]}", session)
            assert (await exporter.get("/metrics")).status == 404
            assert Samples.of((await exporter.get("/own/metrics")).text).value("heat_up", project=FIRST) == 1
            assert 'href="./own/metrics"' in (await exporter.get("/")).text


async def test_metrics_at_the_root(cloud: Cloud):
    """`/` itself may be the telemetry path: then it is the metrics."""
    async with cloud.fleet() as fleet:
        await fleet.once()
        async with (
            listening(Server(fleet, telemetry_path="/"), [Address("127.0.0.1", 0)]) as ports,
            scraper() as session,
        ):
            answer = await Exporter(f"http://127.0.0.1:{ports[0]}", session).get("/")
            assert Samples.of(answer.text).value("heat_up", project=FIRST) == 1


# -- health and readiness


async def test_ready_after_the_first_attempts(cloud: Cloud):
    """Not ready before discovery, nor before each project's first attempt; ready after, whatever came of them."""
    lookup, listing = Hold(), Hold()
    cloud.intercept(lookup, "/v3/auth/projects")
    cloud.listing(listing, SECOND)
    async with cloud.exporter() as exporter:
        await asyncio.wait_for(lookup.entered.wait(), DEADLINE)
        assert (await exporter.get("/-/ready")).status == 503
        assert (await exporter.get("/-/healthy")).status == 200
        lookup.released.set()
        await asyncio.wait_for(listing.entered.wait(), DEADLINE)
        await exporter.when(lambda page: page.get("heat_up", project=FIRST) == 1)
        assert (await exporter.get("/-/ready")).status == 503
        listing.released.set()
        await exporter.when(lambda page: page.get("heat_up", project=SECOND) == 1)
        ready = await exporter.get("/-/ready")
        assert (ready.status, ready.text) == (200, "Ready\n")


async def test_not_ready_while_stopping(cloud: Cloud):
    """From the moment the program is told to end it is not ready, but still healthy, and still shows its page."""
    async with still(cloud) as exporter:
        assert (await exporter.get("/-/ready")).status == 200
        exporter.server.stopping()
        assert (await exporter.get("/-/ready")).status == 503
        assert (await exporter.get("/-/healthy")).status == 200
        assert (await exporter.get("/metrics")).status == 200


async def test_scrapes_before_anything_is_known(cloud: Cloud):
    """A fleet that has not asked anything yet shows a whole page in both formats."""
    fleet = Collector(configuration())
    async with harness.running(fleet, refreshing=False) as exporter:
        for form, accept in FORMATS.items():
            page = Samples.of((await exporter.get(Accept=accept)).text, openmetrics=form == "openmetrics")
            assert page.value("heat_exporter_build_info") == 1
            assert {each.labels["state"] for each in page.select("heat_projects")} >= {"pending", "stale"}
        assert (await exporter.get("/-/ready")).status == 503
        assert (await exporter.get("/")).status == 200
    assert len(cloud.requests) == 0
