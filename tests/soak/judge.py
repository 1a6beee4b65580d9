"""What a page may say: every figure worked out anew from what the simulated cloud held, and compared.

A page names, by `heat_last_refresh_success_timestamp_seconds`, which listing each project's data is of; what that
listing said is counted by the tests' own oracle. How many refreshes have succeeded tells which listings have been seen
since the project is watched, and so what has finished meanwhile.
"""

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Literal

from exporter.config.units import parse_duration
from exporter.deployments.snapshot import Distribution, Snapshot
from tests import oracle
from tests.oracle import Rules
from tests.soak.life import Cell, Life, Listing
from tests.soak.pages import Figures, Key, Labels, Page, PageError, cells, one

STATUSES, ACTIONS = ("COMPLETE", "IN_PROGRESS", "FAILED"), ("CREATE", "UPDATE", "DELETE", "SUSPEND", "RESUME")
FINAL = ("COMPLETE", "FAILED")
Kind = Literal["whole", "project", "some"]
"""Of a page: everything, one project's, or some families only."""
DEPLOYMENTS = "heat_software_deployments"
STUCK = "heat_software_deployments_stuck"
SERVERS = "heat_server_software_deployments"
CODES = "heat_software_deployment_status_codes"
AGES = "heat_software_deployment_age_seconds"
STATE_AGES = "heat_software_deployment_state_age_seconds"
CODE_HISTOGRAM = "heat_software_deployment_deploy_status_code"
OLDEST = "heat_software_deployment_oldest_change_timestamp_seconds"
NEWEST = "heat_software_deployment_newest_change_timestamp_seconds"
PROBLEMS = "heat_software_deployment_problem_timestamp_seconds"
CONFIGS = "heat_software_config_deployments"
CONFIG_INFO, SERVER_INFO = "heat_software_config_info", "heat_server_info"
FINISHED = "heat_software_deployment_finished_total"
DURATION = "heat_software_deployment_duration_seconds"
SUCCESS = "heat_last_refresh_success_timestamp_seconds"
WITHHELD = "heat_series_withheld"
EXACT = (DEPLOYMENTS, STUCK, CODES, AGES, STATE_AGES, CODE_HISTOGRAM, OLDEST, NEWEST)
"""What no limit cuts."""
CUT = (SERVERS, PROBLEMS, CONFIGS)
DATA = (*EXACT, *CUT, CONFIG_INFO, SERVER_INFO)
COUNTER_ENDINGS = ("_total", "_bucket", "_count", "_sum")
KEPT = 200
"""So many listings of a project are remembered after they were seen."""
CODE_BOUNDS = (0, 1, 2, 125, 126, 127, 128, 137, 143, 255)
DURATION_BOUNDS = (5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0)


def data_family(sample: str) -> str | None:
    """The family of the data that a sample is of, None for the exporter's own figures."""
    for suffix in ("", "_bucket", "_gcount", "_gsum"):
        if (name := sample.removesuffix(suffix)) in DATA:
            return name
    return None


@dataclass(frozen=True)
class Settings:
    """A configuration that is in force for a while, as far as it says what a page shows."""

    stuck_after: str = "1h"
    servers: int = 10_000
    problems: int = 200
    configs: int = 200
    names: bool = True
    series: int = 500_000

    @property
    def rules(self) -> Rules:
        """The oracle's."""
        usual = (60.0, 300.0, 900.0, 1800.0, 3600.0, 21600.0, 86400.0, 604800.0, 2592000.0, 31536000.0)
        stuck_after = parse_duration(self.stuck_after)
        return Rules(
            age_bounds=tuple(sorted({*usual, stuck_after})),
            code_bounds=CODE_BOUNDS,
            stuck_after=stuck_after,
            servers=self.servers,
            problems=self.problems,
        )


@dataclass
class Watched:
    """A project from the time on that it is watched: what its listings have said in a row."""

    start: int
    """The number of the first of them."""
    latest: int = 0
    """The number of the latest that a page showed: what is watched anew begins after it."""
    doubtful: bool = False
    """Whether one was answered in vain, for it took too long."""
    seen: int = 0
    """How many were taken into account."""
    known: set[tuple[object, ...]] = field(default_factory=set)
    running: dict[tuple[object, ...], float | None] = field(default_factory=dict)
    finished: Counter[Cell] = field(default_factory=Counter)
    durations: dict[Cell, list[float]] = field(default_factory=dict)
    rejected: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    truth: Counter[Cell] = field(default_factory=Counter)
    """What had truly finished before the first of them."""
    history: dict[int, tuple[Counter[Cell], dict[Cell, tuple[float, ...]], Counter[str], int]] = field(
        default_factory=dict
    )
    """The figures after each of the latest ones, by its number."""

    def see(self, number: int, listing: Listing) -> None:
        """Take the next listing into account."""
        first = not self.seen
        if first:
            self.truth = listing.finished
        running: dict[tuple[object, ...], float | None] = {}
        met: set[str] = set()
        for item in listing.items:
            if not isinstance(item, dict):
                self.rejected["not_object"] += 1
                continue
            identity = oracle.read_text(item.get("id"))
            if not identity:
                self.rejected["id"] += 1
                continue
            if identity in met:
                self.duplicates += 1
                continue
            met.add(identity)
            status, action, config = (oracle.read_text(item.get(key)) for key in ("status", "action", "config_id"))
            created, updated = (oracle.read_time(item.get(key)) for key in ("creation_time", "updated_time"))
            changed = updated or created
            run, shape = (identity, action, config), (identity, status, action, updated, config)
            if status == "IN_PROGRESS":
                before = self.running.get(run)
                running[run] = before if before is not None else changed.timestamp() if changed else None
            elif status in FINAL:
                began = self.running.get(run)
                ran = run in self.running
                again = began is not None and changed is not None and changed.timestamp() >= began
                old = not ran and changed is not None and changed.timestamp() < listing.arrived - 3600
                if not first and not old and (shape not in self.known or again):
                    self.finished[status, action] += 1
                    start = created.timestamp() if action == "CREATE" and created else began
                    if changed and start is not None:
                        took = max(0.0, changed.timestamp() - start)
                        self.durations.setdefault((status, action), []).append(took)
                self.known.add(shape)
        self.running = running
        self.seen += 1
        histograms = {}
        for cell, took in self.durations.items():
            counts = [float(sum(each <= bound for each in took)) for bound in DURATION_BOUNDS]
            histograms[cell] = (*counts, float(len(took)), sum(took))
        self.history[number] = self.finished.copy(), histograms, self.rejected.copy(), self.duplicates
        self.history.pop(number - KEPT, None)


@dataclass(frozen=True)
class Floor:
    """What a later page must not fall below."""

    removed: float = 0.0
    projects: dict[str, Figures] = field(default_factory=dict)
    cloud: Figures = field(default_factory=dict)


class Judge:
    """Looks at one page after the other; PageError where one says what it may not."""

    def __init__(self, life: Life, settings: Settings) -> None:
        self._life = life
        self.in_force: list[tuple[float, Settings]] = [(0.0, settings)]
        """Settings and since when, Unix time, they may be in force, in that order."""
        self.replaced: dict[int, float] = {}
        """By place in that list: when the next ones were certainly in force."""
        self.floor = Floor()
        self.pages = 0
        self.figures = 0
        self.data = 0
        """How many projects' data was compared."""
        self.doubts = 0
        """How many projects' counters can't be judged any more."""
        self._judged: dict[str, Figures] = {}
        self._watched: dict[str, Watched] = {}
        self._expected: dict[tuple[str, int, Settings], Snapshot] = {}

    # -- pages

    def page(self, page: Page, floor: Floor, *, kind: Kind) -> None:
        """Judge a page that was asked for when the floor was known."""
        self.pages += 1
        for project_id, figures in page.projects.items():
            self.figures += len(figures)
            if page.names[project_id] not in self._life.names.get(project_id, ()):
                raise PageError(f"nobody ever called it so: {page.names[project_id]!r}")
            if kind != "some" and self._judged.get(project_id) == figures:
                continue  # it was right a moment ago
            try:
                if kind == "some":
                    self._agree(figures)
                else:
                    self._project(project_id, figures)
            except PageError as error:
                raise PageError(f"project {page.names[project_id]!r} ({project_id}): {error}") from None
            if kind != "some":
                self._judged[project_id] = figures
        if kind == "whole":
            self._sums(page)
            self._monotone(page, floor)
            self._requests(page)

    def _sums(self, page: Page) -> None:
        """The states of the projects are those of the projects that are shown."""
        states: Counter[str] = Counter()
        for figures in page.projects.values():
            up = one(figures, "heat_up")
            shown = any(name == DEPLOYMENTS for name, _ in figures)
            states["pending" if up is None else "stale" if not shown else "fresh" if up else "failing"] += 1
        said = {dict(labels)["state"]: value for labels, value in cells(page.cloud, "heat_projects").items()}
        if page.cloud and {state: value for state, value in said.items() if value} != states:
            raise PageError(f"heat_projects says {said}, the page shows {dict(states)}")
        refreshed = sum(one(figures, "heat_refreshes_total") or 0 for figures in page.projects.values())
        taken = one(page.cloud, "heat_refresh_duration_seconds_count")
        if taken is not None and taken < refreshed:
            raise PageError(f"{refreshed:.0f} refreshes, but {taken:.0f} durations")

    def _monotone(self, page: Page, floor: Floor) -> None:
        """No counter goes down, none is lost but with its project."""
        removed = sum(cells(page.cloud, "heat_projects_removed_total").values())
        counters = {project_id: _counters(figures) for project_id, figures in page.projects.items()}
        for project_id, before in floor.projects.items():
            excused = removed > floor.removed and self._life.lost[project_id]
            if not excused:
                _compare(before, counters.get(project_id, {}), f"project {project_id}")
        cloud = _counters(page.cloud)
        _compare(floor.cloud, cloud, "the cloud")
        if removed >= self.floor.removed:
            self.floor = Floor(removed, counters, cloud)

    def _requests(self, page: Page) -> None:
        """No request was counted that was never made."""
        made: Counter[str] = Counter()
        for labels, value in cells(page.cloud, "heat_api_requests_total").items():
            made[dict(labels)["api"]] += int(value)
        for api, number in made.items():
            # Those that found nobody listening are known to the exporter alone.
            failed = one(page.cloud, "heat_api_requests_total", api=api, code="error") or 0
            if number - failed > self._life.arrivals[api]:  # type: ignore[index]
                raise PageError(f"{number} requests to {api}, of which {self._life.arrivals[api]} arrived")  # type: ignore[index]

    # -- one project

    def _project(self, project_id: str, figures: Figures) -> None:
        success = one(figures, SUCCESS)
        attempts = one(figures, "heat_refreshes_total")
        if success is None or attempts is None:
            raise PageError("a project without the exporter's own figures")
        if any(("reason", "internal") in labels for labels in cells(figures, "heat_refresh_failures_total")):
            raise PageError("a mistake of the exporter's own")
        succeeded = int(attempts - sum(cells(figures, "heat_refresh_failures_total").values()))
        data: dict[str, Figures] = {}
        for (name, labels), value in figures.items():
            if (family := data_family(name)) is not None:
                data.setdefault(family, {})[name, labels] = value
        if not success:
            if succeeded or data:
                raise PageError(f"{succeeded} refreshes have succeeded and there is no listing")
            return
        number, listing = self._listing(project_id, success)
        self._history(project_id, number, succeeded, figures)
        if one(figures, "heat_refresh_response_bytes") != listing.size:
            raise PageError(f"{one(figures, 'heat_refresh_response_bytes')} bytes instead of {listing.size}")
        if not data:
            if withheld := sum(cells(figures, WITHHELD).values()):
                raise PageError(f"{withheld} series are withheld of data that is not shown")
            return
        self.data += 1
        self._agree(figures)
        problems = []
        for settings in self._settings(success):
            try:
                self._same(project_id, number, listing, settings, figures, data)
                return
            except PageError as error:
                problems.append(f"by {settings}: {error}")
        raise PageError("; ".join(problems))

    def _listing(self, project_id: str, success: float) -> tuple[int, Listing]:
        """The listing that was asked for at this moment, and its number."""
        kept = self._life.listings.get(project_id, ())
        for number, listing in enumerate(kept, self._life.first[project_id]):
            if listing.arrived >= success:
                return number, listing
        raise PageError(f"no listing was asked for at {success}")

    def _settings(self, asked: float) -> list[Settings]:
        """Those that may have been in force when a refresh began that asked for its listing at this moment."""
        return [
            settings
            for place, (since, settings) in enumerate(self.in_force)
            if since <= asked and asked - 30 <= self.replaced.get(place, float("inf"))
        ][::-1]

    def _uncut(self, asked: float) -> bool:
        """Whether the page had room for everything from this moment on."""
        return all(
            settings.series >= Settings().series
            for place, (_, settings) in enumerate(self.in_force)
            if asked - 30 <= self.replaced.get(place, float("inf"))
        )

    def _history(self, project_id: str, number: int, succeeded: int, figures: Figures) -> None:
        """The counters are what the listings since the beginning of the watch add up to."""
        start = number - succeeded + 1
        lost = bool(self._life.lost[project_id])
        watched = self._watched.get(project_id)
        if watched is not None and lost and start < watched.start:
            return  # an older page, of before the project was watched anew
        if watched is None or (lost and start > watched.latest):
            if (start and not lost) or start < self._life.first[project_id]:
                raise PageError(f"{succeeded} refreshes have succeeded, of {number + 1} listings that were answered")
            watched = self._watched[project_id] = Watched(start)
        elif start != watched.start and not watched.doubtful:
            timeouts = one(figures, "heat_refresh_failures_total", api="orchestration", reason="timeout") or 0
            if start < watched.start or timeouts <= self._life.hung[project_id]:
                since = number - watched.start + 1
                raise PageError(f"{succeeded} refreshes have succeeded, of {since} listings that were answered")
            # This machine is so busy that an answer came too late: which one, nobody knows.
            watched.doubtful = True
            self.doubts += 1
        watched.latest = max(watched.latest, number)
        if watched.doubtful:
            return
        kept = self._life.listings[project_id]
        while watched.start + watched.seen <= number:
            at = watched.start + watched.seen
            watched.see(at, kept[at - self._life.first[project_id]])
        self._life.trim(project_id, watched.start + watched.seen - KEPT)
        finished, durations, rejected, duplicates = watched.history[number]
        shown: dict[Cell, int] = {}
        for labels, value in cells(figures, FINISHED).items():
            shown[dict(labels)["status"], dict(labels)["action"]] = int(value)
        zeros = dict.fromkeys(((status, action) for status in FINAL for action in ACTIONS), 0)
        if shown != zeros | finished:
            raise PageError(f"finished: {_difference(zeros | finished, shown)}")
        truth = self._life.listings[project_id][number - self._life.first[project_id]].finished
        for cell, count in shown.items():
            if cell[1] in ACTIONS and count > truth[cell] - watched.truth[cell]:
                raise PageError(f"finished {cell}: {count}, in truth {truth[cell] - watched.truth[cell]}")
        expected: Figures = {}
        for (status, action), (*buckets, size, total) in durations.items():
            labels = {"status": status, "action": action}
            for bound, count in zip((*DURATION_BOUNDS, float("inf")), (*buckets, size), strict=True):
                expected[_key(f"{DURATION}_bucket", le=str(bound), **labels)] = count
            expected[_key(f"{DURATION}_count", **labels)] = size
            expected[_key(f"{DURATION}_sum", **labels)] = total
        shown_durations = {key: value for key, value in figures.items() if key[0].startswith(DURATION)}
        if shown_durations != expected:
            raise PageError(f"durations: {_difference(expected, shown_durations)}")
        for reason in ("not_object", "id", "too_deep"):
            if one(figures, "heat_records_rejected_total", reason=reason) != rejected[reason]:
                raise PageError(f"rejected {reason}: not {rejected[reason]}")
        if one(figures, "heat_duplicate_records_total") != duplicates:
            raise PageError(f"duplicates: not {duplicates}")

    def _agree(self, figures: Figures) -> None:
        """The families of one project that are on the page agree with each other, whatever the cloud held."""
        totals: dict[str, Counter[str]] = {}
        for family in (DEPLOYMENTS, CODES, SERVERS, CONFIGS):
            if (shown := cells(figures, family)) and not _withheld(figures, family):
                by_status: Counter[str] = Counter()
                for labels, value in shown.items():
                    by_status[dict(labels)["status"]] += int(value)
                totals[family] = +by_status
        for labels, value in cells(figures, f"{STATE_AGES}_bucket").items():
            if dict(labels)["le"] == "inf" and (each := dict(labels)["status"]) in STATUSES and DEPLOYMENTS in totals:
                aged = one(figures, f"{STATE_AGES}_gcount", status=each)
                if value != aged or value > totals[DEPLOYMENTS][each]:
                    raise PageError(f"{value:.0f} or {aged} ages of {totals[DEPLOYMENTS][each]} deployments")
        first = next(iter(totals.values()), None)
        if any(each != first for each in totals.values()):
            raise PageError(f"by status: {totals}")

    def _same(
        self,
        project_id: str,
        number: int,
        listing: Listing,
        settings: Settings,
        figures: Figures,
        data: dict[str, Figures],
    ) -> None:
        """The data is what the listing said, by these settings."""
        snapshot = self._count(project_id, number, listing, settings, one(figures, SUCCESS) or 0)
        expected = _figures(snapshot)
        for family in EXACT:
            if data.get(family, {}) != expected.get(family, {}):
                raise PageError(f"{family}: {_difference(expected.get(family, {}), data.get(family, {}))}")
        whole = self._uncut(listing.arrived)
        for family in (SERVERS, PROBLEMS):
            shown, wanted = data.get(family, {}), expected.get(family, {})
            if whole and shown != wanted:
                raise PageError(f"{family}: {_difference(wanted, shown)}")
            if not shown.items() <= wanted.items():
                raise PageError(f"{family} has what it must not: {_difference(wanted, shown)}")
            left_out = {SERVERS: snapshot.servers_withheld, PROBLEMS: snapshot.problems_withheld}[family]
            if _withheld(figures, family) != left_out + len(wanted) - len(shown):
                raise PageError(f"{family}: {_withheld(figures, family)} withheld, not {left_out}")
        if data.get(CONFIGS) and not settings.configs:
            raise PageError("configs that nobody wants")
        self._names(listing, settings, data)

    def _names(self, listing: Listing, settings: Settings, data: dict[str, Figures]) -> None:
        """Whatever has a name has the right one."""
        by_name: Counter[tuple[str, str, str]] = Counter()
        for item in listing.items:
            if isinstance(item, dict):
                by_name[
                    *listing.configs.get(oracle.read_text(item.get("config_id")), ("", "")), item.get("status")
                ] += 1
        for (_, labels), value in data.get(CONFIGS, {}).items():
            each = dict(labels)
            name = each["config_name"], each["group"]
            if name != ("", "") and value > by_name[*name, each["status"]]:
                raise PageError(f"{value:.0f} of {each}, of {by_name[*name, each['status']]}")
        for _, labels in data.get(CONFIG_INFO, {}):
            each = dict(labels)
            if listing.configs.get(each["config_id"]) != (each["config_name"], each["group"]):
                raise PageError(f"no such config: {each}")
        for _, labels in data.get(SERVER_INFO, {}):
            each = dict(labels)
            if self._life.world.server_names.get(each["server_id"]) != each["server_name"]:
                raise PageError(f"no such server: {each}")

    def _count(self, project_id: str, number: int, listing: Listing, settings: Settings, asked_at: float) -> Snapshot:
        key = project_id, number, replace(settings, names=True, configs=0, series=0)
        if key not in self._expected:
            if len(self._expected) > 500:
                for old in list(self._expected)[:250]:
                    del self._expected[old]
            self._expected[key] = oracle.count(listing.items, settings.rules, asked_at=asked_at)
        return self._expected[key]


def _key(name: str, **labels: str) -> Key:
    return name, tuple(sorted(labels.items()))


def _figures(snapshot: Snapshot) -> dict[str, Figures]:
    """A snapshot's samples by family."""
    found: dict[str, Figures] = {family: {} for family in DATA}
    for status in STATUSES:
        for action in ACTIONS:
            found[DEPLOYMENTS][_key(DEPLOYMENTS, status=status, action=action)] = 0
    for action in ACTIONS:
        found[STUCK][_key(STUCK, action=action)] = 0
    for (status, action), count in snapshot.deployments.items():
        found[DEPLOYMENTS][_key(DEPLOYMENTS, status=status, action=action)] = count
    for action, count in snapshot.stuck.items():
        if count or action in ACTIONS:
            found[STUCK][_key(STUCK, action=action)] = count
    for row in snapshot.servers:
        key = _key(SERVERS, server_id=row.server_id, status=row.status, action=row.action)
        found[SERVERS][key] = row.deployments
    for (status, code), count in snapshot.codes.items():
        found[CODES][_key(CODES, status=status, deploy_status_code=code)] = count
    for family, label, distributions in (
        (AGES, "status", snapshot.ages),
        (STATE_AGES, "status", snapshot.state_ages),
        (CODE_HISTOGRAM, "action", snapshot.code_distribution),
    ):
        for value, distribution in distributions.items():
            found[family] |= _histogram(family, {label: value}, distribution)
    for family, times in ((OLDEST, snapshot.oldest_changes), (NEWEST, snapshot.newest_changes)):
        for (status, action), time in times.items():
            found[family][_key(family, status=status, action=action)] = time
    for problem in snapshot.problems:
        labels = {
            "problem": problem.problem,
            "deployment_id": problem.deployment_id,
            "server_id": problem.server_id,
            "config_id": problem.config_id,
            "status": problem.status,
            "action": problem.action,
            "deploy_status_code": problem.deploy_status_code,
        }
        found[PROBLEMS][_key(PROBLEMS, **labels)] = problem.changed
    return found


def _histogram(family: str, labels: dict[str, str], distribution: Distribution) -> Figures:
    figures: Figures = {}
    bounds = (*distribution.bounds, float("inf"))
    for bound, count in zip(bounds, (*distribution.cumulative, distribution.size), strict=True):
        figures[_key(f"{family}_bucket", le=str(float(bound)), **labels)] = count
    figures[_key(f"{family}_gcount", **labels)] = distribution.size
    figures[_key(f"{family}_gsum", **labels)] = distribution.total
    return figures


def _withheld(figures: Figures, family: str) -> float:
    return one(figures, WITHHELD, family=family) or 0


def _counters(figures: Figures) -> Figures:
    return {
        key: value for key, value in figures.items() if key[0].endswith(COUNTER_ENDINGS) and data_family(key[0]) is None
    }


def _compare(before: Figures, after: Figures, what: str) -> None:
    for key, value in before.items():
        if after.get(key, -1.0) < value:
            raise PageError(f"{what}: {key} was {value}, is {after.get(key)}")


def _difference(expected: object, found: object) -> str:
    """Where two tables differ, a few of the places."""
    assert isinstance(expected, dict)
    assert isinstance(found, dict)
    keys = [key for key in {**expected, **found} if expected.get(key) != found.get(key)]
    some = ", ".join(f"{key}: {found.get(key)} instead of {expected.get(key)}" for key in keys[:5])
    return f"{len(keys)} differ: {some}"


__all__ = ["Floor", "Judge", "Labels", "Settings"]
