"""The pages for people: what they say over HTTP, and what they do in a real browser."""

import asyncio
import dataclasses
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin

import aiohttp
import msgspec
import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hatchling.builders.wheel import WheelBuilder
from hypothesis import given
from hypothesis import strategies as st
from playwright.async_api import Page, Route, expect

from exporter.cli.serve import Address, listening
from exporter.collector.collector import Collector
from exporter.collector.project_poller import ProjectPoller
from exporter.common.clock import Clock
from exporter.config import effective, schema
from exporter.deployments.snapshot import ConfigName, ProblemRow, Snapshot
from exporter.deployments.state import ProjectKey, ProjectState
from exporter.ui import board, handlers, pages
from exporter.ui.assets import ASSETS
from exporter.ui.handlers import PATHS
from exporter.ui.view import COLUMNS, View
from exporter.web.app import Server
from tests import harness
from tests.harness import (
    DEADLINE,
    FIRST,
    ONCE,
    SECOND,
    Answer,
    Cloud,
    Exporter,
    answering,
    configuration,
    scraper,
)
from tests.programs.available import require
from tests.programs.chromium import Chromium, Visit

cloud = harness.cloud
pytestmark = harness.sdk_warning

ROOT = Path(__file__).parent.parent
NOW = 1_700_000_000.0
HTML = "text/html,application/xhtml+xml"
HOSTILE = '<script>alert("x")</script>&amp;\'<img src=x onerror=alert(1)>'
NASTY = (
    HOSTILE,
    '" onmouseover="alert(1)" x="',
    "'><svg onload=alert(1)>",
    "</td></tr></table><h1>broken out</h1>",
    "&lt;b&gt; is not bold",
    "\u202egnp.exe\u202c right to left \u05d0\u05d1",
    "nul\x00 escape\x1b[31m bell\x07 next\x85",
    "half a pair \ud800",
    "x" * 5000,
    "{0} {name} %s ${y} `z` {{}}",
    "javascript:alert(1)",
    "]]> <!-- <![CDATA[",
)


class Parsed(HTMLParser):
    """The tags of a page, its links, and the text of its cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.cells: list[str] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self.attributes: set[str] = set()
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note it."""
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._cell = True
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        """Note that a cell ends."""
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        """Note what is in a cell."""
        self.text += data
        if self._cell:
            self.rows[-1][-1] += data


def snapshot(
    *, age: float = 30.0, complete: int = 0, failed: int = 0, running: int = 0, stuck: int = 0, **fields: Any
) -> Snapshot:
    """Data of so many seconds before NOW that counts so many deployments."""
    counts = {("COMPLETE", "CREATE"): complete, ("FAILED", "UPDATE"): failed, ("IN_PROGRESS", "CREATE"): running}
    return Snapshot(asked_at=NOW - age, deployments=counts, stuck={"CREATE": stuck}, **fields)


def failed_row(number: int = 1, **fields: Any) -> ProblemRow:
    """A failed deployment."""
    row = ProblemRow(
        problem="failed",
        deployment_id=f"deployment-{number}",
        server_id=f"server-{number}",
        config_id=f"config-{number}",
        status="FAILED",
        action="UPDATE",
        deploy_status_code="2",
        changed=NOW - 3725,
        reason="it did not work",
    )
    return row._replace(**fields)


@dataclasses.dataclass
class Shown:
    """Pages of projects that stand still until a test changes them."""

    fleet: Collector
    url: str
    exporter: Exporter

    def state(self, name: str, cloud: str = "sim") -> ProjectState:
        """A project's state."""
        return self.fleet.clouds[cloud].projects[name].state

    def put(self, id_: str, data: Snapshot | None = None, *, cloud: str = "sim", **fields: Any) -> ProjectState:
        """A project, by its id, as it is after a successful refresh; `fields` replace others of its state."""
        watched = self.fleet.clouds[cloud]
        watch = watched.projects.setdefault(id_, ProjectPoller(ProjectKey(cloud, id_), id_, watched._shared))
        if data is not None:
            watch.state = watch.state.succeeded(data, duration=0.5, interval=60.0)
        watch.state = dataclasses.replace(watch.state, **fields)
        return watch.state

    def remove(self, name: str) -> None:
        """A project that is gone."""
        del self.fleet.clouds["sim"].projects[name]

    async def get(self, path: str = "/", **headers: str) -> Answer:
        """One request."""
        return await self.exporter.get(path, **headers)

    async def news(self, since: str) -> Any:
        """What is new since a version; None where the answer is that nothing is."""
        answer = await self.get(f"/updates?since={since}")
        assert answer.status in (200, 204)
        return msgspec.json.decode(answer.body) if answer.status == 200 else None


@asynccontextmanager
async def showing(*clouds: str, telemetry_path: str = "/metrics") -> AsyncIterator[Shown]:
    """The pages of a fleet of these clouds that asks nobody anything, and whose clock stands still."""
    entries = [{"name": name, "cloud": name} for name in clouds or ("sim",)]
    fleet = Collector(configuration(clouds=entries), clock=Clock(wall=lambda: NOW))
    server = Server(fleet, telemetry_path=telemetry_path)
    async with listening(server, [Address("127.0.0.1", 0)]) as ports, scraper() as session:
        url = f"http://127.0.0.1:{ports[0]}"
        yield Shown(fleet, url, Exporter(url, session, fleet, server))


@asynccontextmanager
async def three() -> AsyncIterator[Shown]:
    """A fresh, a failing and a stale project."""
    async with showing() as shown:
        shown.put("apple", snapshot(age=10, complete=5, failed=3))
        shown.put("Banana", snapshot(age=100, complete=20, running=4, stuck=1), up=False, error="timeout: too slow")
        shown.put("cherry", snapshot(age=900, complete=100, failed=9), stale=True, up=False, error="auth: expired")
        yield shown


def version_of(answer: Answer) -> str:
    """The version of the rows of a landing page."""
    found = re.search(r'data-version="([^"]+)"', answer.text)
    assert found is not None
    return found[1]


def projects_of(answer: Answer) -> list[str]:
    """The projects of a landing page by their ids, from top to bottom."""
    return re.findall(r'<tr data-key="[^"/]+/([^"]+)"', answer.text)


# -- the landing page over HTTP


async def test_every_project_is_there_with_its_figures(cloud: Cloud):
    """Each project that is watched has a row with its cloud, name, id, state, age, interval, counts and last error."""
    cloud.deploy(status="FAILED", action="UPDATE", code=2)
    cloud.deploy(status="IN_PROGRESS", age=7200)
    cloud.listing(answering(500), SECOND)
    async with cloud.exporter(configuration(refresh=ONCE)) as exporter:
        await asyncio.wait_for(exporter.fleet.wait_ready(), DEADLINE)
        answer = await exporter.get("/")
        own = await exporter.get(f"/project?cloud=sim&project={FIRST}")
    rows = {row[1].split()[0]: row for row in Parsed(answer.text).rows if row[0] == "sim" and len(row) == len(COLUMNS)}
    assert rows.keys() == {FIRST, SECOND}
    first, second = rows[FIRST], rows[SECOND]
    assert cloud.project(FIRST).id in first[1]
    assert first[2] == "fresh"
    assert re.fullmatch(r"\d+s every 1h", first[3])
    assert first[4:8] == ["3", "1", "1", "1"]
    assert first[8] == ""
    assert second[2:8] == ["stale", "none every 1h", "", "", "", ""]
    assert second[8].startswith("server_error: ")
    assert own.status == 200
    assert "secret-output" not in answer.text + own.text


async def test_the_links_lead_to_pages_that_exist():
    """Every link of every page is relative and leads to an answer: metrics, probe, project, configuration, assets."""
    async with three() as shown:
        shown.fleet.clouds["sim"].found = True  # or there is no list for service discovery yet
        shown.put("name with/slash ?&#%2e é", snapshot())
        seen: dict[str, int] = {}
        todo = [f"{shown.url}/"]
        while todo:
            address = todo.pop()
            if address in seen:
                continue
            answer = await shown.get(address.removeprefix(shown.url), Accept=HTML)
            seen[address] = answer.status
            if answer.headers["Content-Type"].startswith("text/html"):
                links = Parsed(answer.text).links
                assert all(link.startswith("./") for link in links)
                todo += [urljoin(address, link) for link in links]
        assert {status for address, status in seen.items() if not address.endswith("/-/ready")} == {200}
        paths = {address.removeprefix(shown.url).partition("?")[0] for address in seen}
        assert paths >= {"/", "/metrics", "/sd", "/config", "/project", "/probe", "/-/healthy", "/-/ready"}
        assert len([address for address in seen if "/project?" in address]) == 4


ORDERS = {
    "": ["apple", "Banana", "cherry"],
    "sort=project&order=desc": ["cherry", "Banana", "apple"],
    "sort=state": ["cherry", "Banana", "apple"],
    "sort=state&order=asc": ["apple", "Banana", "cherry"],
    "sort=age": ["cherry", "Banana", "apple"],
    "sort=age&order=asc": ["apple", "Banana", "cherry"],
    "sort=deployments": ["Banana", "apple", "cherry"],
    "sort=failed": ["apple", "Banana", "cherry"],
    "sort=failed&order=asc": ["cherry", "Banana", "apple"],
    "sort=stuck": ["Banana", "apple", "cherry"],
    "sort=in_progress&order=asc": ["cherry", "apple", "Banana"],
    "sort=error": ["Banana", "cherry", "apple"],
    "sort=nonsense&order=sideways": ["apple", "Banana", "cherry"],
    "q=AN": ["Banana"],
    "q=+slow+": ["Banana"],
    "q=nothing": [],
    "state=stale": ["cherry"],
    "state=nonsense": ["apple", "Banana", "cherry"],
    "cloud=sim": ["apple", "Banana", "cherry"],
    "cloud=other": [],
    "state=failing&q=e&sort=failed": ["Banana"],
}


async def test_sorting_and_filtering_need_no_script():
    """The address alone sorts (ties by name, projects without data below those with none) and filters."""
    async with three() as shown:
        for query, expected in ORDERS.items():
            answer = await shown.get(f"/?{query}")
            assert projects_of(answer) == expected, query
            assert f"{len(expected)} of 3 projects" in answer.text


@given(st.builds(View, st.text().map(str.strip), st.text(), st.sampled_from(["", "fresh", "stale"]),
                 st.sampled_from([column.name for column in COLUMNS]), st.booleans()))  # fmt: skip
def test_a_view_s_address_means_that_view(view: View):
    """What a view's query says is read as the same view."""
    plain = view._replace(**{key: value.encode("utf-8", "replace").decode() for key, value in view._asdict().items()
                             if isinstance(value, str)})  # fmt: skip
    assert View.of(dict(parse_qsl(plain.query(), keep_blank_values=True))) == plain


async def test_clouds_show_discovery_and_warnings():
    """Each cloud has its discovery's state, its error, its projects by state, and a warning about an admin's token."""
    async with showing("one", "two") as shown:
        shown.put("apple", snapshot(), cloud="two")
        shown.put("berry", cloud="two")
        cloud = shown.fleet.clouds["two"]
        cloud.state = dataclasses.replace(
            cloud.state, discovery_up=False, discovery_error=f"auth: {HOSTILE}", discovery_last_success=NOW - 7300
        )
        cloud._refused.add("apple")
        one, two = (row for row in Parsed((await shown.get()).text).rows if len(row) == 4 and row[0] != "Cloud")
    assert one == ["one", "pending", "none", ""]
    assert two[0].startswith("two")
    assert "administrator's token" in two[0]
    assert "a user with the role reader" in two[0]
    assert two[1:] == ["failed, last found 2h 1m ago", "1 pending, 1 fresh", f"auth: {HOSTILE}"]


async def test_a_refused_configuration_is_told():
    """While the configuration that was read last is refused, the landing page says so, and so does its news."""
    async with three() as shown:
        answer = await shown.get()
        assert "was refused" not in answer.text
        shown.fleet.state = dataclasses.replace(shown.fleet.state, reload_successful=False)
        assert "was refused" in (await shown.get()).text
        news = await shown.news(version_of(answer))
        assert "was refused" in news["overview"]


async def test_news_are_what_changed_and_no_more():
    """A page that is open gets the rows that changed, the ids of those that went, or word that nothing did."""
    async with three() as shown:
        version = version_of(await shown.get())
        assert await shown.news(version) is None
        shown.put("apple", snapshot(age=1, complete=6))
        news = await shown.news(version)
        assert re.findall(r'data-key="([^"]+)"', news["rows"]) == ["sim/apple"]
        assert (news["full"], news["gone"]) == (False, [])
        assert "9 deployments" not in news["overview"]
        assert await shown.news(news["version"]) is None
        shown.remove("apple")
        shown.put("date", snapshot())
        later = await shown.news(news["version"])
        assert later["gone"] == ["sim/apple"]
        assert re.findall(r'data-key="([^"]+)"', later["rows"]) == ["sim/date"]
        # One that was away for longer gets it all.
        assert (await shown.news(version))["gone"] == ["sim/apple"]
        shown.put("apple", snapshot())
        assert (await shown.news(version))["gone"] == []


async def test_the_same_numbers_again_are_no_news():
    """A state that was replaced by one that shows the same sends nothing."""
    async with three() as shown:
        version = version_of(await shown.get())
        shown.put("apple", snapshot(age=10, complete=5, failed=3))
        shown.put("Banana", skipped=7, duration=3.0)
        assert await shown.news(version) is None


@pytest.mark.parametrize("since", ["", "nonsense", "-1", "0000-1", "{}-99", "{}-", "{}-²", "{}-" + "9" * 5000])
async def test_a_version_that_is_not_known_gets_everything(since: str):
    """Whoever comes with a version of another process, or with none that can be, gets every row, and is told so."""
    async with three() as shown:
        process = version_of(await shown.get()).partition("-")[0]
        news = await shown.news(since.format(process))
        assert news["full"] is True
        assert news["rows"].count("<tr ") == 3
        assert news["overview"]


async def test_removals_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch):
    """Only so many removals are kept; who has missed more gets everything instead."""
    monkeypatch.setattr(board, "KEPT_REMOVALS", 2)
    async with showing() as shown:
        for number in range(5):
            shown.put(f"project-{number}", snapshot())
        versions = [version_of(await shown.get())]
        for number in range(4):
            shown.remove(f"project-{number}")
            versions.append(version_of(await shown.get()))
        old, recent = await shown.news(versions[0]), await shown.news(versions[2])
        assert (old["full"], old["gone"]) == (True, [])
        assert (recent["full"], recent["gone"]) == (False, ["sim/project-2", "sim/project-3"])


async def test_thousands_of_projects_leave_room_for_others():
    """While a page of 2,000 projects, or its news, is put together, the event loop gets to others many times."""
    async with showing() as shown:
        for number in range(2000):
            shown.put(f"project-{number:04}", snapshot(complete=number))
        turns = 0
        served = asyncio.Event()

        async def count() -> None:
            nonlocal turns
            while not served.is_set():
                turns += 1
                await asyncio.sleep(0)

        async def turns_of(call: Any) -> int:
            nonlocal turns
            turns = 0
            served.clear()
            counting = asyncio.create_task(count())
            await call
            served.set()
            await counting
            return turns

        looking = board.Board(shown.fleet)
        assert await turns_of(looking.look()) >= 2000 // board.STEP
        request = make_mocked_request("GET", "/", headers={"Accept-Encoding": "gzip"})
        assert await turns_of(handlers._page(request, ["part"] * 50)) >= 50
        assert await turns_of(looking.look()) >= 2000 // board.STEP
        answer = await shown.get(Accept_Encoding="gzip")
        assert len(projects_of(answer)) == 2000
        assert len(answer.raw) < len(answer.body) / 5


async def test_visitors_at_once_share_a_look():
    """Those that come while the board looks for changes cause one further look together, and see what is new."""
    async with showing() as shown:
        for number in range(board.STEP * 3):
            shown.put(f"project-{number}", snapshot())
        looking = board.Board(shown.fleet)
        await asyncio.gather(*(looking.look() for _ in range(20)))
        assert looking._looks == 2
        first = asyncio.create_task(looking.look())
        await asyncio.sleep(0)
        shown.put("project-0", snapshot(complete=77))  # which that look has passed already
        await asyncio.gather(first, *(looking.look() for _ in range(20)))
        assert looking._looks == 4
        assert next(each for each in looking.summaries if each.name == "project-0").counts.deployments == 77


@pytest.mark.parametrize("value", NASTY, ids=range(len(NASTY)))
async def test_whatever_a_cloud_sends_is_text(value: str):
    """Names, ids, errors and reasons are text on every page, in the cells where they belong, never markup."""
    async with showing() as shown:
        usual = set(Parsed((await shown.get()).text).attributes)
        row = failed_row(reason=value, server_id=value, config_id=value, action=value, deploy_status_code=value)
        data = snapshot(
            failed=1, problems=(row,), server_names={value: value}, config_names={value: ConfigName(value, value)},
            rejected={value: 1},
        )  # fmt: skip
        name = value or "empty"
        shown.put(name, data, error=value, up=False)
        for path in ("/", f"/project?{urlencode({'cloud': 'sim', 'project': name}, errors='replace')}", "/updates"):
            answer = await shown.get(path)
            if answer.status == 404:
                assert "\ud800" in value  # no address can spell it
                continue
            body = answer.text if path != "/updates" else msgspec.json.decode(answer.body)["rows"]
            page = Parsed(body)
            assert {*page.tags} <= TAGS
            assert page.attributes <= usual | ATTRIBUTES
            assert page.tags.count("script") == (0 if path == "/updates" else 1)
            assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", body)
            if "&" not in value and len(value) < 300 and value.isprintable():
                assert value in page.text


TAGS = {
    *("html", "head", "meta", "title", "link", "script", "body", "header", "main", "section", "nav", "div", "span"),
    *("h1", "h2", "p", "ul", "li", "dl", "dt", "dd", "a", "b", "bdi", "time"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td", "form", "label", "input", "select", "option", "button"),
}
ATTRIBUTES = {
    "data-live",
    "id",
    "aria-labelledby",
    "data-at",
    "datetime",
    "title",
    "data-key",
    "data-state",
    "data-sort",
    "aria-label",
}


@given(st.text())
def test_text_is_text(value: str):
    """Any text, put between tags or in an attribute, comes back as that text, but for what no browser shows."""
    found = Parsed(f'<p title="{pages.text(value)}">{pages.text(value)}</p>')
    assert found.tags == ["p"]
    expected = value.translate(pages._UNSHOWN).encode("utf-8", "replace").decode()
    assert found.text == expected


async def test_times_that_no_calendar_has():
    """A change at an impossible time costs neither the page nor the other rows."""
    rows = (failed_row(1, changed=1e20), failed_row(2, changed=-1e20), failed_row(3))
    async with showing() as shown:
        shown.put("apple", snapshot(failed=3, problems=rows))
        answer = await shown.get("/project?cloud=sim&project=apple")
        assert answer.status == 200
        assert [f"deployment-{number}" in answer.text for number in (1, 2, 3)] == [True] * 3


def test_ages():
    """An age is told in its two largest units; one that is not over yet is none."""
    told = {-5: "0s", 0: "0s", 59.9: "59s", 60: "1m 0s", 3599: "59m 59s", 3600: "1h 0m", 86399: "23h 59m",
            86400: "1d 0h", 9e6: "104d 4h"}  # fmt: skip
    assert {seconds: pages.age(seconds) for seconds in told} == told


async def test_no_landing_page_where_the_metrics_are():
    """With the telemetry path `/`, the metrics are there; the other pages work, and don't link to what is not there."""
    async with showing(telemetry_path="/") as shown:
        shown.put("apple", snapshot())
        assert (await shown.get()).headers["Content-Type"].startswith("text/plain")
        assert (await shown.get("/updates")).status == 404
        for path in ("/project?cloud=sim&project=apple", "/config", "/project?cloud=sim&project=nobody"):
            assert "./" not in Parsed((await shown.get(path, Accept=HTML)).text).links


async def test_the_headers_of_pages_and_assets():
    """Nothing but our own may be loaded, no type is guessed, no address told on, no page kept; assets may be kept."""
    async with three() as shown:
        for path in ("/", "/project?cloud=sim&project=apple", "/project", "/config", "/updates"):
            answer = await shown.get(path, Accept=HTML)
            policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
            assert policy["default-src"] == "'none'"
            assert {policy[name] for name in policy if name.endswith("-src")} == {"'none'", "'self'"}
            assert (policy["base-uri"], policy["frame-ancestors"]) == ("'none'", "'none'")
            assert "unsafe" not in answer.headers["Content-Security-Policy"]
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert (await shown.get("/metrics")).headers["X-Content-Type-Options"] == "nosniff"
        for name, asset in ASSETS.items():
            lasting = await shown.get(f"/assets/{name}?v={asset.version}")
            assert (lasting.status, lasting.raw) == (200, asset.body)
            assert "immutable" in lasting.headers["Cache-Control"]
            assert lasting.headers["X-Content-Type-Options"] == "nosniff"
            bare = await shown.get(f"/assets/{name}")
            assert bare.headers["Cache-Control"] == "no-cache"
            again = await shown.get(f"/assets/{name}", If_None_Match=bare.headers["ETag"])
            assert (again.status, again.raw) == (304, b"")
        for path in ("/assets/", "/assets/nothing.js", "/assets/../web.py", "/assets/%2e%2e%2fweb.py"):
            assert (await shown.get(path)).status == 404, path


async def test_our_own_mistakes_are_not_shown():
    """Where a page fails by a mistake of ours, its answer is 500 without a word of it; the log has it."""
    async with three() as shown:
        shown.fleet.clouds["sim"].projects["apple"].state = None  # type: ignore[assignment]
        for path in ("/", "/updates", "/project?cloud=sim&project=apple"):
            answer = await shown.get(path)
            assert (answer.status, answer.text) == (500, "Internal error: see the log\n")


def test_the_wheel_brings_the_assets():
    """What the pages load is in the package that is installed."""
    packed = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    assert {f"exporter/ui/web_assets/{name}" for name in ASSETS} <= packed


def test_the_stylesheet_and_the_script_fetch_nothing():
    """No asset has an address of anybody else, and the script makes no code of text."""
    for name, asset in ASSETS.items():
        text = asset.body.decode().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"//[a-z]+\.|url\(|@import", text), name
        assert not re.search(r"\beval\b|new Function|innerHTML|insertAdjacentHTML|document\.write", text), name
    assert "/project" in PATHS


# -- a project's page over HTTP


async def test_a_project_is_looked_up_like_its_probe():
    """By id, or by a name that is unique: else 400; 404 for what is not watched. The page says which."""
    async with showing() as shown:
        shown.put("id-1", snapshot(), name="twin")
        shown.put("id-2", snapshot(), name="twin")
        shown.put("id-3", snapshot(), name="single")
        expected = {
            "": 400, "?cloud=sim": 400, "?project=id-1": 400, "?cloud=sim&project=twin": 400,
            "?cloud=sim&project=nobody": 404, "?cloud=other&project=id-1": 404,
            "?cloud=sim&project=id-1": 200, "?cloud=sim&project=single": 200,
        }  # fmt: skip
        for query, status in expected.items():
            page, probe = await shown.get(f"/project{query}"), await shown.get(f"/probe{query}")
            assert (page.status, probe.status) == (status, status), query
            assert page.headers["Content-Type"].startswith("text/html")
            if status != 200:
                assert html_text(probe.text.strip().replace("/probe", "/project")) in page.text


def html_text(text: str) -> str:
    """How a page spells a text."""
    return pages.text(text)


async def test_a_project_s_page_names_what_is_broken():
    """Failed and stuck deployments with their names, ids, exit code, age and reason; what limits left out; counts."""
    rows = (
        failed_row(1),
        failed_row(2, deploy_status_code="", reason="", changed=NOW + 60),
        failed_row(3, problem="stuck", status="IN_PROGRESS", action="CREATE", changed=NOW - 90000),
    )
    data = snapshot(
        age=61, complete=7, failed=5, running=1, stuck=1, problems=rows, problems_withheld=3, servers_withheld=40,
        server_names={"server-1": "web-1"}, config_names={"config-1": ConfigName("install-agent", "script")},
        response_bytes=2048,
    )  # fmt: skip
    async with showing() as shown:
        shown.put("apple", data, error="timeout: too slow", up=False)
        answer = await shown.get("/project?cloud=sim&project=apple")
    page = Parsed(answer.text)
    failed = [row for row in page.rows if len(row) == 7 and "deployment-" in row[6]]
    assert failed == [
        [
            "web-1 server-1",
            "install-agent config-1 script",
            "UPDATE",
            "2",
            "1h 2m ago",
            "it did not work",
            "deployment-1",
        ],
        ["server-2", "config-2", "UPDATE", "none", "0s ago", "none", "deployment-2"],
        ["server-3", "config-3", "CREATE", "2", "1d 1h ago", "it did not work", "deployment-3"],
    ]
    assert ["UPDATE", "0", "5", "0"] in page.rows
    assert ["CREATE", "7", "0", "1"] in page.rows
    for text in ("failing", "1m 1s", "every 1m", "2KiB", "40 series of servers", "3 failed and stuck",
                 "timeout: too slow", "3 more are not listed"):  # fmt: skip
        assert text in page.text, text
    assert "./probe?cloud=sim&project=apple" in page.links
    assert "./" in page.links


async def test_a_project_without_data_says_so():
    """A page of a project that was not asked yet, or whose data is too old, has no counts and says why."""
    async with three() as shown:
        shown.put("date")
        pending = (await shown.get("/project?cloud=sim&project=date")).text
        stale = (await shown.get("/project?cloud=sim&project=cherry")).text
        empty = shown.put("empty", Snapshot(asked_at=NOW))
        assert empty.condition == "fresh"
        assert "no deployments" in (await shown.get("/project?cloud=sim&project=empty")).text
    assert "There is no data yet" in pending
    assert "too old to be shown" in stale
    assert "auth: expired" in stale
    for text in (pending, stale):
        assert "<table" not in text


# -- the configuration


async def test_the_configuration_in_force_is_a_configuration(cloud: Cloud):
    """/config shows every default, in the units of a configuration file; read again, it says the same."""
    text = """
refresh: {interval: 90s}
limits: {response_bytes: 1GiB}
buckets: {age: [1m, 1h]}
clouds:
  - {name: a, cloud: simulator, projects: [x, {name: y, domain: z}], servers: {exclude: ["test-.*"]}}
  - {name: b, cloud: simulator, refresh: {interval: 5m}}
"""
    settings = schema.parse(text, source="test")
    async with cloud.exporter(settings, refreshing=False) as exporter:
        plain = await exporter.get("/config")
        page = await exporter.get("/config", Accept=HTML)
    assert plain.headers["Content-Type"] == "text/plain; charset=utf-8"
    shown, resolved = plain.text.split("---\n")
    again = schema.parse(shown, source="page")
    assert again == settings
    assert again.digest() == settings.digest()
    assert "interval: 1m30s" in shown
    assert "response_bytes: 1GiB" in shown
    assert "stale_after: 5m" in shown
    assert html_text(shown) in page.text
    assert "auth_url: http://127.0.0.1:" in resolved
    assert "username: monitor" in resolved
    assert "password: <secret>" in resolved
    assert html_text("<secret>") in page.text


def everywhere(value: Any, secret: Iterator[str]) -> Any:
    """The same with a secret in place of each text, number or nothing, and one more beside."""
    if isinstance(value, dict):
        return {key: everywhere(each, secret) for key, each in value.items()} | {next(secret): next(secret)}
    if isinstance(value, list):
        return [everywhere(each, secret) for each in value] + [next(secret)]
    return next(secret)


JSON = st.recursive(
    st.none() | st.booleans() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(st.dictionaries(st.sampled_from(["auth", "key", "token", "networks", "cert", "verify", "headers", "x"]), JSON))
def test_only_what_is_known_to_be_harmless_is_shown(settings: dict[str, Any]):
    """Whatever a cloud's settings hold, and under whatever names: what is not listed as harmless is not shown."""
    secrets = (f"hunter{number}" for number in range(10**9))
    settings = everywhere(settings, secrets)
    settings["auth"] = {**(settings["auth"] if isinstance(settings.get("auth"), dict) else {})}
    for name in ("password", "token", "passcode", "application_credential_secret", "consumer_secret"):
        settings["auth"][name] = next(secrets)
    settings["auth"]["auth_url"] = f"https://{next(secrets)}:{next(secrets)}@cloud/v3?x={next(secrets)}#{next(secrets)}"
    settings["orchestration_endpoint_override"] = f"https://{next(secrets)}@heat/v1"
    settings["auth"]["username"] = {"nested": next(secrets)}
    settings["cacert"] = f"-----BEGIN CERTIFICATE-----\n{next(secrets)}\n"
    for harmless in ("verify", "cert"):
        settings.pop(harmless, None)
    text = effective.clouds({"sim": settings})
    assert "hunter" not in text
    assert "https://cloud/v3" in text
    assert "https://heat/v1" in text


BARE = {
    "https://host:5000/v3": "https://host:5000/v3",
    "https://user:pass@host/v3?key=x#y": "https://host/v3",
    "https://[::1]:5000/v3": "https://[::1]:5000/v3",
    "https://user:pa/ss@host/": "<secret>",
    "https://us/er:pass@host/": "<secret>",
    "user:pass@host": "<secret>",
    "otc": "otc",
}


@pytest.mark.parametrize("url", BARE)
def test_a_url_is_shown_bare(url: str):
    """Of a URL its scheme, host, port and path are shown; of what is none, nothing."""
    assert effective.bare_url(url) == BARE[url]


def test_settings_of_any_type():
    """What is true, false or a number is shown as it is."""
    shown = effective.harmless({"verify": False, "identity_api_version": 3, "interface": "public", "auth": None})
    assert shown == {"identity_api_version": 3, "interface": "public", "verify": False}


AUTHS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "password": ({"username": "someone", "user_domain_id": "default"}, {"password": "hunter-password"}),
    "v3token": ({}, {"token": "hunter-token"}),
    "v3applicationcredential": (
        {"application_credential_id": "some-id"},
        {"application_credential_secret": "hunter-credential"},
    ),
    "v3totp": ({"username": "someone", "user_domain_id": "default"}, {"passcode": "hunter-passcode"}),
}
"""By kind of authentication: what clouds.yaml says, and what secure.yaml does."""


@pytest.mark.parametrize("kind", AUTHS)
async def test_no_secret_is_ever_shown(cloud: Cloud, capfd: pytest.CaptureFixture[str], kind: str):
    """No page, no metric, no log line and no repr holds a password, a token or any other secret, whatever fails."""
    entry = cloud.entry()
    user = cloud.world.add_user("watcher", "hunter-real")
    for name in (FIRST, SECOND):
        cloud.world.grant(user.id, cloud.project(name).id, "reader")
    entry["auth"] |= {"username": "watcher", "password": "hunter-real"}
    url = entry["auth"]["auth_url"]
    working = {**entry, "auth": {**entry["auth"], "auth_url": url.replace("://", "://hunter-user:hunter-pass@")}}
    with harness.closed_port() as closed:
        down = f"http://hunter-user:hunter-pass@127.0.0.1:{closed.getsockname()[1]}/v3?key=hunter-query"
        open_, secret = AUTHS[kind]
        auth = {"auth_url": down, "project_name": FIRST, "project_domain_id": "default", **open_}
        cloud.put("secure.yaml", yaml.safe_dump({"clouds": {"broken": {"auth": secret}}}))
        broken = {**entry, "auth_type": kind, "auth": auth, "hunter-option": "hunter-value"}
        wrong = {**entry, "auth": {**entry["auth"], "password": "hunter-wrong"}}
        cloud.write(working, broken=broken, wrong=wrong)
        settings = configuration(
            refresh=ONCE,
            clouds=[{"name": "sim", "cloud": "simulator"}, {"name": "down", "cloud": "broken", "projects": "current"},
                    {"name": "wrong", "cloud": "wrong"}],
        )  # fmt: skip
        async with cloud.exporter(settings) as exporter:
            await asyncio.wait_for(exporter.fleet.wait_ready(), DEADLINE)
            assert exporter.fleet.clouds["sim"].state.discovery_up
            assert exporter.fleet.clouds["down"].state.discovery_error
            assert exporter.fleet.clouds["wrong"].state.discovery_error
            id_ = cloud.project(FIRST).id
            paths = ("/", "/updates", f"/project?cloud=sim&project={id_}", "/config", "/metrics", "/sd", "/nowhere",
                     f"/probe?cloud=sim&project={id_}", "/project?cloud=down&project=x")  # fmt: skip
            said = [(await exporter.get(path, Accept=accept)).text for path in paths for accept in (HTML, "*/*")]
            fleet = exporter.fleet
            for each in fleet.clouds.values():
                said += map(
                    repr, (each, each.access, each.state, each.config, each._shared, *each.access._tokens.values())
                )
            said += [repr(fleet), repr(fleet.config), *(repr(watch.state) for watch in fleet.watches())]
    said += capfd.readouterr()
    tokens = [*cloud.world.tokens]
    assert tokens
    for text in said:
        assert "hunter" not in text, re.findall(r".{,100}hunter.{,100}", text)
        assert not [token for token in tokens if token in text]


# -- in a browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    """A real Chromium for all tests of this module; each visits with a fresh profile."""
    require("chromium")
    with Chromium() as browser:
        yield browser


@dataclasses.dataclass
class Look:
    """What a browser shows of some pages; its methods wait for what they expect."""

    chromium: Chromium
    visit: Visit
    url: str

    @property
    def page(self) -> Page:
        """Playwright's page."""
        return self.visit.page

    async def open(self, path: str = "/") -> None:
        """Go to a page."""
        await self.chromium(self.page.goto(f"{self.url}{path}"))

    async def does(self, work: Any) -> Any:
        """Let the browser do something."""
        return await self.chromium(work)

    async def projects(self, *names: str) -> None:
        """Exactly these projects are visible, in this order."""
        rows = self.page.locator("#projects tbody tr:visible th a:first-child")
        await self.chromium(expect(rows).to_have_text(list(names)))

    async def cell(self, project: str, column: str, text: str) -> None:
        """A project's cell shows this."""
        index = [each.name for each in COLUMNS].index(column)
        row = self.page.locator("#projects tbody tr", has=self.page.get_by_role("link", name=project, exact=True))
        await self.chromium(expect(row.locator("td, th").nth(index)).to_have_text(text))

    async def heading(self, title: str) -> None:
        """Click on a column's heading."""
        await self.chromium(self.page.locator("#projects thead").get_by_role("link", name=title).click())

    async def axe(self) -> list[str]:
        """What axe complains about."""
        from axe_playwright_python.async_playwright import Axe

        found = await self.chromium(Axe().run(self.page))
        return [f"{each['id']}: {node['html']}" for each in found.response["violations"] for node in each["nodes"]]

    async def fits(self) -> bool:
        """Whether the page is no wider than the screen (a phone's `innerWidth` grows with what is too wide)."""
        size = self.page.viewport_size
        assert size is not None
        return bool(await self.evaluate("document.documentElement.scrollWidth") <= size["width"])

    async def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        return await self.chromium(self.page.evaluate(script))


@asynccontextmanager
async def looking(chromium: Chromium, url: str, *, complaining: bool = False, **options: Any) -> AsyncIterator[Look]:
    """A browser on these pages; at the end nothing was complained about and nobody else asked for anything."""
    async with chromium.visit(**options) as visit:
        yield Look(chromium, visit, url)
        assert visit.hosts == {url.removeprefix("http://").partition("/")[0]}
        if not complaining:
            assert visit.complaints == []


async def test_headings_sort(chromium: Chromium):
    """A click on a heading sorts by it, a second one the other way round; the address keeps it for the next time."""
    async with three() as shown, looking(chromium, shown.url) as look:
        await look.open()
        await look.projects("apple", "Banana", "cherry")
        await look.heading("Stuck")
        await look.projects("Banana", "apple", "cherry")
        await look.heading("Project")
        await look.projects("apple", "Banana", "cherry")
        await look.heading("Project")
        await look.projects("cherry", "Banana", "apple")
        heading = look.page.locator("th[data-column=project]")
        await look.does(expect(heading).to_have_attribute("aria-sort", "descending"))
        await look.does(expect(look.page.locator("th[aria-sort]")).to_have_count(1))
        assert len([each for each in look.visit.requests if "sort=" in each]) == 0
        await look.does(look.page.reload())
        await look.projects("cherry", "Banana", "apple")
        for column, expected in (("Data age", "cherry"), ("Deployments", "Banana"), ("Failed", "apple"),
                                 ("In progress", "Banana"), ("State", "cherry"), ("Last error", "Banana")):  # fmt: skip
            await look.heading(column)
            first = look.page.locator("#projects tbody tr th a:first-child").first
            await look.does(expect(first).to_have_text(expected))


async def test_typing_filters(chromium: Chromium):
    """Text, state and cloud filter at once, without asking the server; the address keeps them; all come back."""
    async with three() as shown, looking(chromium, shown.url) as look:
        await look.open()
        await look.does(look.page.get_by_label("Filter").fill("AN"))
        await look.projects("Banana")
        await look.does(expect(look.page.locator("#shown")).to_have_text("1 of 3 projects"))
        await look.does(look.page.reload())
        await look.projects("Banana")
        # The rest was not in that page, and is there all the same.
        await look.does(look.page.get_by_label("Filter").fill("e"))
        await look.projects("apple", "Banana", "cherry")
        await look.does(look.page.get_by_label("State").select_option("stale"))
        await look.projects("cherry")
        await look.does(look.page.get_by_label("State").select_option(""))
        await look.does(look.page.get_by_label("Filter").fill("probe"))
        await look.projects()
        await look.does(look.page.get_by_label("Filter").fill(""))
        await look.projects("apple", "Banana", "cherry")
        await look.does(look.page.locator(".tiles").get_by_role("link", name="failing").click())
        await look.projects("Banana")


async def test_the_page_follows_the_projects(chromium: Chromium):
    """What changes shows without reloading: numbers, states, new and lost projects; filter, order, focus and scroll
    position stay."""
    async with showing() as shown, looking(chromium, shown.url, viewport={"width": 900, "height": 400}) as look:
        for number in range(60):
            shown.put(f"web-{number:02}", snapshot(complete=number))
        shown.put("other", snapshot())
        await look.open()
        await look.evaluate("document.body.dataset.loaded = 'once'")
        await look.does(look.page.get_by_label("Filter").fill("web-"))
        await look.heading("Deployments")
        link = look.page.get_by_role("link", name="web-30", exact=True)
        await look.does(link.scroll_into_view_if_needed())
        await look.does(link.focus())
        scrolled = await look.evaluate("scrollY")
        assert scrolled > 0
        # To the top: the row with the focus is moved and renewed.
        shown.put("web-30", snapshot(age=5, complete=1000, failed=2), up=False, error="timeout: too slow")
        shown.put("web-61", snapshot(complete=500))
        shown.put("unwanted", snapshot(complete=500))
        shown.remove("web-59")
        await look.cell("web-30", "state", "failing")
        await look.cell("web-30", "failed", "2")
        await look.cell("web-30", "error", "timeout: too slow")
        await look.projects("web-30", "web-61", *(f"web-{number:02}" for number in range(58, -1, -1) if number != 30))
        await look.does(expect(link).to_be_focused())
        assert await look.evaluate("scrollY") == scrolled
        await look.does(expect(look.page.get_by_label("Filter")).to_have_value("web-"))
        await look.does(expect(look.page.locator("#shown")).to_have_text("60 of 62 projects"))
        await look.does(expect(look.page.locator(".tiles")).to_contain_text("1 failing"))
        assert await look.evaluate("document.body.dataset.loaded") == "once"


async def test_a_real_refresh_reaches_the_page(cloud: Cloud, chromium: Chromium):
    """A deployment that fails in the cloud shows on an open page after the next refresh."""
    async with cloud.exporter() as exporter:
        await asyncio.wait_for(exporter.fleet.wait_ready(), DEADLINE)
        async with looking(chromium, exporter.url) as look:
            await look.open()
            await look.cell(FIRST, "failed", "0")
            cloud.deploy(status="FAILED", action="UPDATE", code=2)
            await look.cell(FIRST, "failed", "1")
            await look.cell(SECOND, "failed", "0")


async def test_clouds_that_come_can_be_chosen(chromium: Chromium):
    """A cloud that is added shows on an open page, and its projects can be filtered for; the choice made stays."""
    async with showing("one", "two") as shown, looking(chromium, shown.url) as look:
        two = shown.fleet.clouds.pop("two")
        shown.put("apple", snapshot(), cloud="one")
        await look.open()
        cloud = look.page.get_by_label("Cloud", exact=True)
        await look.does(cloud.select_option("one"))
        shown.fleet.clouds["two"] = two
        shown.put("berry", snapshot(), cloud="two")
        await look.does(expect(cloud.locator("option")).to_have_text(["any", "one", "two"]))
        await look.does(expect(cloud).to_have_value("one"))
        await look.projects("apple")
        await look.does(cloud.select_option("two"))
        await look.projects("berry")


async def test_a_project_s_page_follows_it(chromium: Chromium):
    """An open page of a project shows what changes without reloading, and says when the project is no longer there."""
    async with showing() as shown, looking(chromium, shown.url, complaining=True) as look:
        shown.put("apple", snapshot(complete=1))
        await look.open("/project?cloud=sim&project=apple")
        await look.evaluate("document.body.dataset.loaded = 'once'")
        await look.does(expect(look.page.locator("td.reason")).to_have_count(0))
        shown.put("apple", snapshot(failed=1, problems=(failed_row(reason=HOSTILE),)))
        await look.does(expect(look.page.locator("td.reason")).to_have_text(HOSTILE))
        assert await look.evaluate("document.body.dataset.loaded") == "once"
        shown.remove("apple")
        await look.does(expect(look.page.locator("#live")).to_contain_text("no longer up to date"))
        await look.does(expect(look.page.locator("td.reason")).to_have_text(HOSTILE))


async def test_ages_go_on(chromium: Chromium):
    """Ages grow on every page by themselves, by the exporter's clock, whatever the browser's is."""

    async def cut(route: Route) -> None:
        # What the exporter would answer has the age in it; whoever hears nothing of it has to count.
        await (route.abort() if route.request.resource_type == "fetch" else route.continue_())

    async with showing() as shown, looking(chromium, shown.url, complaining=True) as look:
        shown.put("apple", snapshot(age=7300))
        await look.does(look.page.route("**/*", cut))
        await look.does(look.page.clock.install(time=0))
        await look.does(look.page.clock.pause_at(1))
        for path in ("/", "/project?cloud=sim&project=apple"):
            await look.open(path)
            age = look.page.locator("time").first
            await look.does(expect(age).to_have_text("2h 1m"))
            await look.does(look.page.clock.run_for(120_000))
            await look.does(expect(age).to_have_text("2h 3m"))


async def test_an_exporter_that_is_gone_is_told(chromium: Chromium):
    """While the exporter can't be reached the page says so, keeps what it has, and recovers."""
    async with showing() as shown, looking(chromium, shown.url, complaining=True) as look:
        shown.put("apple", snapshot())
        await look.does(look.page.clock.install())
        await look.open()
        await look.does(look.page.route("**/updates*", lambda route: route.abort()))
        await look.does(look.page.clock.run_for(5_000))
        await look.does(expect(look.page.locator("#live")).to_contain_text("no longer up to date"))
        await look.projects("apple")
        await look.does(look.page.unroute("**/updates*"))
        shown.put("berry", snapshot())
        await look.does(look.page.clock.run_for(15_000))
        await look.projects("apple", "berry")
        await look.does(expect(look.page.locator("#live")).to_have_text(""))


async def test_hostile_texts_in_a_browser(chromium: Chromium):
    """Names, ids, errors and reasons of any content are text in a browser too, on first sight and when they change."""
    async with showing() as shown, looking(chromium, shown.url) as look:
        rows = tuple(failed_row(number, reason=value, server_id=value) for number, value in enumerate(NASTY))
        shown.put("apple", snapshot(failed=len(rows), problems=rows, server_names={value: value for value in NASTY}))
        await look.open()
        for number, value in enumerate(NASTY):
            shown.put(f"id-{number}", snapshot(), name=value, error=value, up=False)
        names = look.page.locator("#projects tbody tr th a:first-child")
        await look.does(expect(names).to_have_count(len(NASTY) + 1))
        told = await look.does(names.all_text_contents())
        visible = [value.translate(pages._UNSHOWN).replace("\ud800", "?") for value in NASTY]
        assert sorted(told) == sorted([*visible, "apple"])
        await look.does(look.page.get_by_label("Filter").fill(HOSTILE))
        await look.projects(HOSTILE)
        await look.does(look.page.reload())
        await look.projects(HOSTILE)
        await look.open("/project?cloud=sim&project=apple")
        reasons = await look.does(look.page.locator("td.reason").all_text_contents())
        assert reasons == visible
        assert await look.evaluate("document.images.length + document.querySelectorAll('svg').length") == 0
        assert await look.fits()


async def test_everything_can_be_done_by_keyboard(chromium: Chromium):
    """From the top of the page, Tab and Enter alone filter, sort and open a project."""
    async with three() as shown, looking(chromium, shown.url) as look:
        await look.open()
        keyboard = look.page.keyboard

        async def tab_to(selector: str) -> None:
            for _ in range(60):
                await look.does(keyboard.press("Tab"))
                if await look.evaluate(f"document.activeElement.matches({selector!r})"):
                    return
            pytest.fail(f"Tab never comes to {selector}")

        await tab_to("#q")
        await look.does(keyboard.type("an"))
        await look.projects("Banana")
        await look.does(keyboard.press("Enter"))
        await look.does(keyboard.press("Control+a"))
        await look.does(keyboard.press("Delete"))
        await tab_to("th[data-column=failed] a")
        await look.does(keyboard.press("Enter"))
        await look.projects("apple", "Banana", "cherry")
        await look.does(keyboard.press("Enter"))
        await look.projects("cherry", "Banana", "apple")
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert await look.evaluate(outline) == "solid"
        await tab_to("tbody th a")
        await look.does(keyboard.press("Enter"))
        await look.does(expect(look.page.locator("h1")).to_have_text("cherry"))


async def test_without_scripts(chromium: Chromium):
    """With JavaScript switched off, headings sort, the form filters, and both keep each other."""
    async with three() as shown, looking(chromium, shown.url, java_script_enabled=False) as look:
        await look.open()
        await look.projects("apple", "Banana", "cherry")
        await look.heading("Failed")
        await look.projects("apple", "Banana", "cherry")
        await look.heading("Failed")
        await look.projects("cherry", "Banana", "apple")
        await look.does(look.page.get_by_label("Filter").fill("an"))
        await look.does(look.page.get_by_role("button", name="Apply").click())
        await look.projects("Banana")
        await look.does(look.page.get_by_label("Filter").fill("f"))
        await look.does(look.page.get_by_label("Filter").press("Enter"))
        await look.projects("Banana", "apple")
        await look.does(look.page.get_by_role("link", name="apple", exact=True).click())
        await look.does(expect(look.page.locator("h1")).to_have_text("apple"))


@asynccontextmanager
async def behind(shown: Shown, prefix: str) -> AsyncIterator[str]:
    """A proxy that hands on what is below a prefix, without it, and nothing else; gives its address."""

    async def forward(request: web.Request) -> web.Response:
        path = request.path_qs.removeprefix(prefix)
        async with session.get(
            f"{shown.url}{path}", headers={"Accept": request.headers.get("Accept", "*/*")}
        ) as answer:
            kept = {name: value for name, value in answer.headers.items() if name in ("Content-Type", "Cache-Control",
                    "Content-Security-Policy")}  # fmt: skip
            return web.Response(status=answer.status, body=await answer.read(), headers=kept)

    app = web.Application()
    app.router.add_get(f"{prefix}/{{tail:.*}}", forward)
    runner = web.AppRunner(app, shutdown_timeout=0)
    async with aiohttp.ClientSession() as session:
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}{prefix}"
        finally:
            await runner.cleanup()


async def test_behind_a_proxy_that_adds_a_prefix(chromium: Chromium):
    """Pages, assets, links, sorting, forms and news work below any prefix."""
    async with three() as shown, behind(shown, "/some/where") as url, looking(chromium, url) as look:
        await look.open("/")
        await look.heading("Failed")
        await look.heading("Failed")
        await look.projects("cherry", "Banana", "apple")
        assert await look.evaluate("location.pathname") == "/some/where/"
        shown.put("apple", snapshot(age=1, failed=50))
        await look.cell("apple", "failed", "50")
        await look.does(look.page.get_by_role("link", name="apple", exact=True).click())
        await look.does(expect(look.page.locator("h1")).to_have_text("apple"))
        await look.does(look.page.get_by_role("link", name="All projects").click())
        await look.projects("apple", "Banana", "cherry")
        assert all(each.startswith(f"{url}/") for each in look.visit.requests)


async def rich(shown: Shown) -> None:
    """Every kind of thing that the pages can show."""
    rows = (failed_row(1, reason="x" * 1000), failed_row(2, problem="stuck", status="IN_PROGRESS", action="CREATE"))
    shown.put("broken", snapshot(complete=12345, failed=678, stuck=1, running=9, problems=rows, problems_withheld=9,
                                 server_names={"server-1": "web-1"}, servers_withheld=2,
                                 config_names={"config-1": ConfigName("install-agent", "script")}))  # fmt: skip
    shown.put("new")
    cloud = shown.fleet.clouds["sim"]
    cloud.state = dataclasses.replace(
        cloud.state, discovery_up=False, discovery_error="auth: " + "no " * 60, admin_token=True,
        discovery_last_success=NOW - 99,
    )  # fmt: skip
    shown.fleet.state = dataclasses.replace(shown.fleet.state, reload_successful=False)


PAGES = ("/", "/?sort=failed&q=b", "/project?cloud=sim&project=broken", "/project?cloud=sim&project=new", "/config",
         "/project")  # fmt: skip
SCREENS = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True, "color_scheme": "dark"},
}


@pytest.mark.parametrize("screen", SCREENS)
async def test_every_page_is_accessible(chromium: Chromium, screen: str):
    """axe finds nothing on any page, dark or light, wide or narrow; and no page scrolls sideways."""
    async with three() as shown, looking(chromium, shown.url, complaining=True, **SCREENS[screen]) as look:
        await rich(shown)
        for path in PAGES:
            await look.open(path)
            assert await look.axe() == [], path
            assert await look.fits(), path


async def test_dark_and_light(chromium: Chromium):
    """The pages are dark where the reader's system is, light where it is not."""
    ground = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    async with three() as shown, looking(chromium, shown.url, color_scheme="light") as look:
        for path in ("/", "/project?cloud=sim&project=apple", "/config"):
            await look.does(look.page.emulate_media(color_scheme="light"))
            await look.open(path)
            assert min(await look.evaluate(ground)) > 200
            await look.does(look.page.emulate_media(color_scheme="dark"))
            assert max(await look.evaluate(ground)) < 60


async def test_two_thousand_projects_in_a_browser(chromium: Chromium):
    """2,000 projects sort, filter and follow changes like three do, on a phone too."""
    async with showing() as shown, looking(chromium, shown.url, viewport={"width": 1000, "height": 800}) as look:
        for number in range(2000):
            shown.put(f"project-{number:04}", snapshot(complete=number, failed=number % 7))
        await look.open()
        await look.does(expect(look.page.locator("#shown")).to_have_text("2000 of 2000 projects"))
        await look.heading("Deployments")
        first = look.page.locator("#projects tbody tr").first.locator("th a").first
        await look.does(expect(first).to_have_text("project-1999"))
        shown.put("project-0007", snapshot(complete=99999))
        await look.does(expect(first).to_have_text("project-0007"))
        await look.does(look.page.get_by_label("Filter").fill("project-12"))
        await look.does(expect(look.page.locator("#shown")).to_have_text("100 of 2000 projects"))
        await look.does(expect(look.page.locator("#projects tbody tr:visible")).to_have_count(100))
        await look.does(look.page.set_viewport_size({"width": 360, "height": 700}))
        assert await look.fits()
