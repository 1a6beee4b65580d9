"""The pages for people: pure functions from what is known to HTML.

Whatever a cloud sent goes through `text`, so that it can be nothing but text. Addresses are relative: the pages work
wherever a proxy puts them. Times are shown as ages, which the script keeps going.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from html import escape
from typing import Final, NamedTuple
from urllib.parse import urlencode

from exporter import __version__
from exporter.config.units import format_duration, format_size
from exporter.deployments.snapshot import ConfigName, Problem, ProblemRow, Snapshot
from exporter.deployments.state import CONDITIONS, ProjectKey, ProjectState
from exporter.ui.assets import address
from exporter.ui.summary import ADMINISTRATOR, CloudSummary, Counts, Overview, ProjectSummary, counts
from exporter.ui.view import COLUMNS, SEVERITY, View

TITLE: Final = "heat-deployment-exporter"
ERROR_LENGTH: Final = 300
"""So much of an error stands in a row; its project's page has all of it."""

# What a browser drops or takes for something else: control characters but tab and line feed.
_UNSHOWN: Final = {
    code: "\N{REPLACEMENT CHARACTER}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (9, 10)
}


def text(value: str) -> str:
    """The value as text of a page or of an attribute in double quotes, whatever it is."""
    return escape(value.translate(_UNSHOWN).encode("utf-8", "replace").decode(), quote=True)


def foreign(value: str) -> str:
    """A name or message that a cloud sent: text that can't turn round what stands beside it."""
    return f"<bdi>{text(value)}</bdi>"


def age(seconds: float) -> str:
    """How long ago something was, in its two largest units; the script has the same function."""
    rest = max(0, int(seconds))
    for size, unit, smaller, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if rest >= size:
            return f"{rest // size}{unit} {rest % size // smaller}{name}"
    return f"{rest}s"


def _interval(seconds: float) -> str:
    return format_duration(round(seconds) if seconds >= 10 else seconds)


def _instant(at: float) -> str:
    """The opening of a time element, which the age follows; no instant of a calendar is no error."""
    try:
        moment = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, OSError, ValueError):
        moment = ""
    return f'<time data-at="{at:.0f}" datetime="{moment}" title="{moment}">'


def _ago(at: float, now: float) -> str:
    return f"{_instant(at)}{age(now - at)}</time>"


def probe_address(key: ProjectKey) -> str:
    """The address of a project's metrics."""
    return f"./probe?{_query(key)}"


def project_address(key: ProjectKey) -> str:
    """The address of a project's page."""
    return f"./project?{_query(key)}"


def _query(key: ProjectKey) -> str:
    return urlencode({"cloud": key.cloud, "project": key.project_id}, errors="replace")


# -- the landing page


class Row(NamedTuple):
    """A project's row, but for the age of its data, which is never the same."""

    before: str
    asked_at: float
    after: str

    def html(self, now: float) -> str:
        """The row at one moment, Unix seconds."""
        return f"{self.before}{age(now - self.asked_at) if self.asked_at else 'none'}{self.after}"


def row_id(key: ProjectKey) -> str:
    """What tells a project's row from all others, for the script."""
    return f"{key.cloud}/{key.project_id}"


def row(summary: ProjectSummary) -> Row:
    """The row of a project."""
    key = summary.key
    opening = _instant(summary.asked_at) if summary.asked_at else '<span class="none">'
    closing = "</time>" if summary.asked_at else "</span>"
    error = summary.error if len(summary.error) <= ERROR_LENGTH else f"{summary.error[:ERROR_LENGTH]}…"
    before = (
        f'<tr data-key="{text(row_id(key))}" data-state="{summary.condition}"><td>{foreign(key.cloud)}</td>'
        f'<th scope="row"><a href="{text(project_address(key))}">{foreign(summary.name)}</a> '
        f'<span class="id">{foreign(key.project_id)}</span> '
        f'<a class="probe" href="{text(probe_address(key))}" aria-label="Probe of {text(summary.name)}">probe</a></th>'
        f'<td data-sort="{SEVERITY[summary.condition]}">{_state(summary.condition)}</td>'
        f'<td data-sort="{-summary.asked_at:.3f}">{opening}'
    )
    after = (
        f'{closing} <span class="interval">every {_interval(summary.interval)}</span></td>'
        f"{_numbers(summary.counts)}<td>{foreign(error) if error else ''}</td></tr>\n"
    )
    return Row(before, summary.asked_at, after)


def _state(state: str) -> str:
    return f'<span class="state {state}">{state}</span>'


def _numbers(found: Counts | None) -> str:
    if found is None:
        return '<td class="number" data-sort="-1"></td>' * len(Counts._fields)
    bad = ("", " bad", " warn", "")
    return "".join(
        f'<td class="number{kind if count else ""}" data-sort="{count}">{count:,}</td>'
        for kind, count in zip(bad, found)
    )


def overview(shown: Overview, now: float) -> str:
    """What stands above the projects: all of them in numbers, and each cloud."""
    projects = sum(shown.conditions)
    tiles = [f'<li><a href="./"><b>{projects:,}</b> {_plural(projects, "project")}</a></li>']
    tiles += [
        _tile(f"state={condition}", condition, count, condition)
        for condition, count in zip(CONDITIONS, shown.conditions, strict=True)
    ]
    tiles += [
        _tile(f"sort={name}&amp;order=desc", title, count, kind)
        for name, title, kind, count in zip(
            Counts._fields, ("deployments", "failed", "stuck", "in progress"), ("", "bad", "warn", ""), shown.counts
        )
    ]
    refused = (
        "" if shown.reload_successful else _notice("The configuration was refused when it was last read: see the log.")
    )
    clouds = "".join(_cloud(cloud, projects, now) for cloud, projects in shown.clouds)
    return (
        f'{refused}<ul class="tiles">{"".join(tiles)}</ul>\n'
        '<table class="clouds"><caption>Clouds</caption><thead><tr><th scope="col">Cloud</th>'
        '<th scope="col">Discovery</th><th scope="col">Projects</th><th scope="col">Last error</th></tr></thead>'
        f"<tbody>{clouds}</tbody></table>"
    )


def _tile(query: str, title: str, count: int, kind: str) -> str:
    return f'<li class="{kind if count else "zero"}"><a href="./?{query}"><b>{count:,}</b> {title}</a></li>'


# Where the script says that it can't reach the exporter.
_LIVE: Final = '<p id="live" class="notice" role="status"></p>\n'


def _notice(message: str) -> str:
    return f'<p class="notice">{text(message)}</p>\n'


def _plural(number: int, noun: str) -> str:
    return noun if number == 1 else f"{noun}s"


def _cloud(cloud: CloudSummary, projects: Iterable[int], now: float) -> str:
    parts = ", ".join(f"{count} {condition}" for condition, count in zip(CONDITIONS, projects) if count) or "none"
    found = f"{', last found' if cloud.error else ''} {_ago(cloud.found_at, now)} ago" if cloud.found_at else ""
    warning = f'<p class="warn">{text(ADMINISTRATOR)}</p>' if cloud.admin_token else ""
    address = urlencode({"cloud": cloud.name}, errors="replace")
    return (
        f'<tr><th scope="row"><a href="./?{text(address)}">{foreign(cloud.name)}</a>{warning}</th>'
        f"<td>{_state(cloud.discovery)}{found}</td><td>{parts}</td>"
        f"<td>{foreign(cloud.error) if cloud.error else ''}</td></tr>"
    )


def landing_top(shown: Overview, view: View, *, metrics: str, now: float, version: str, matching: int) -> str:
    """The landing page up to its rows of projects, of which so many are `matching`; `version` is that of the rows."""
    links = "".join(
        f'<li><a href="{text(address)}">{title}</a></li>'
        for title, address in (
            ("Metrics", metrics),
            ("Service discovery", "./sd"),
            ("Configuration", "./config"),
            ("Health", "./-/healthy"),
            ("Readiness", "./-/ready"),
        )
    )
    partial = "" if view.whole else " data-partial"
    headings = "".join(
        f'<th scope="col" data-column="{column.name}"{" data-falling" if column.falling else ""}'
        f"{_aria_sort(view) if column.name == view.sort else ''}>"
        f'<a href="./?{text(view.sorted_by(column).query())}">{column.title}</a></th>'
        for column in COLUMNS
    )
    return (
        _top(TITLE, now)
        + f'<header><h1>{TITLE} <span class="version">{__version__}</span></h1>'
        + f'<p>OpenStack Heat software deployments for Prometheus</p><nav aria-label="Pages"><ul>{links}</ul></nav>'
        + "</header>\n<main>\n"
        + f'<section id="overview" aria-label="Summary">{overview(shown, now)}</section>\n'
        + _form(shown, view)
        + _LIVE
        + f'<p id="shown" role="status">{_shown(matching, sum(shown.conditions))}</p>\n'
        + f'<table id="projects" data-version="{version}"{partial}><caption>Projects</caption>'
        + f"<thead><tr>{headings}</tr></thead>\n<tbody>\n"
    )


LANDING_BOTTOM: Final = "</tbody></table>\n</main></body></html>\n"


def _shown(matching: int, all_: int) -> str:
    return f"{matching} of {all_} {_plural(all_, 'project')}"


def _aria_sort(view: View) -> str:
    return f' aria-sort="{"descending" if view.falling else "ascending"}"'


def _form(shown: Overview, view: View) -> str:
    names = [cloud.name for cloud, _ in shown.clouds]
    if view.cloud and view.cloud not in names:
        names.append(view.cloud)
    return (
        '<form id="filter" method="get" autocomplete="off" action="./" role="search" aria-label="Projects">'
        f'<p><label for="q">Filter</label> <input id="q" name="q" type="search" value="{text(view.text)}"'
        ' placeholder="name, id or error" spellcheck="false"></p>'
        f"<p>{_select('cloud', 'Cloud', names, view.cloud)}</p>"
        f"<p>{_select('state', 'State', CONDITIONS, view.state)}</p>"
        f'<input type="hidden" name="sort" value="{view.sort}">'
        f'<input type="hidden" name="order" value="{"desc" if view.falling else "asc"}">'
        '<p><button>Apply</button> <a class="reset" href="./">Reset</a></p></form>\n'
    )


def _select(name: str, title: str, values: Iterable[str], chosen: str) -> str:
    options = "".join(
        f'<option value="{text(value)}"{" selected" if value == chosen else ""}>{text(value)}</option>'
        for value in values
    )
    return (
        f'<label for="{name}">{title}</label> <select id="{name}" name="{name}"><option value="">any</option>{options}'
        "</select>"
    )


# -- a project's page


def project(state: ProjectState, *, now: float, home: bool) -> str:
    """One project: its figures, and its failed and stuck deployments; `home` where there is a landing page."""
    shown = state.shown
    key = state.key
    links = f'<li><a href="{text(probe_address(key))}">Probe</a></li>'
    body = (
        f"<header><h1>{foreign(state.name)}</h1><p>Project {foreign(key.project_id)} of cloud {foreign(key.cloud)}</p>"
        f"{_navigation(links, home=home)}</header>\n"
        f"{_LIVE}<main data-live>\n<dl>{''.join(_facts(state, now))}</dl>\n"
    )
    if shown is None:
        body += _notice("There is no data yet." if state.snapshot is None else "The data is too old to be shown.")
    else:
        body += _table_of_counts(shown) + _problems(shown, now)
    return f"{_top(f'{state.name} – {TITLE}', now)}{body}</main></body></html>\n"


def _navigation(links: str, *, home: bool) -> str:
    back = '<li><a href="./">All projects</a></li>' if home else ""
    return f'<nav aria-label="Pages"><ul>{back}{links}</ul></nav>' if back or links else ""


def _facts(state: ProjectState, now: float) -> Iterator[str]:
    def fact(name: str, value: str) -> str:
        return f"<div><dt>{name}</dt><dd>{value}</dd></div>"

    shown = state.shown
    yield fact("State", _state(state.condition))
    data = _ago(state.snapshot.asked_at, now) if state.snapshot is not None else "none"
    yield fact("Data age", f"{data}, refreshed every {_interval(state.interval)}")
    if state.duration is not None:
        yield fact("Last refresh took", f"{state.duration:.2f} s")
    yield fact("Refreshes", f"{state.refreshes}, {sum(state.failures.values())} of them failed")
    if shown is not None:
        found = counts(shown)
        for name, count in zip(("Deployments", "Failed", "Stuck", "In progress"), found):
            yield fact(name, f"{count:,}")
        yield fact("Listing", format_size(shown.response_bytes))
        if withheld := _withheld(shown):
            yield fact("Left out by limits", withheld)
    if state.rejected:
        yield fact(
            "Unusable records", ", ".join(f"{count} {text(why)}" for why, count in sorted(state.rejected.items()))
        )
    if state.duplicates:
        yield fact("Deployments met again", str(state.duplicates))
    if state.error:
        yield fact("Last error", foreign(state.error))


def _withheld(shown: Snapshot) -> str:
    parts = (
        (shown.servers_withheld, "series of servers"),
        (shown.problems_withheld, "failed and stuck deployments"),
        (shown.configs_withheld, "series of configs"),
    )
    return ", ".join(f"{count} {what}" for count, what in parts if count)


def _table_of_counts(shown: Snapshot) -> str:
    statuses = sorted({status for status, _ in shown.deployments})
    actions = sorted({action for _, action in shown.deployments})
    if not statuses:
        return "<p>It has no deployments.</p>\n"
    head = "".join(f'<th scope="col">{_or_none(status)}</th>' for status in statuses)
    rows = "".join(
        f'<tr><th scope="row">{_or_none(action)}</th>'
        + "".join(f'<td class="number">{shown.deployments.get((status, action), 0):,}</td>' for status in statuses)
        + "</tr>"
        for action in actions
    )
    return (
        '<table class="counts"><caption>Deployments by action and status</caption>'
        f'<thead><tr><th scope="col">Action</th>{head}</tr></thead><tbody>{rows}</tbody></table>\n'
    )


def _or_none(value: str) -> str:
    return foreign(value) if value else '<span class="none">none</span>'


_HEADINGS: Final = ("Server", "Config", "Action", "Exit code", "Changed", "Reason", "Deployment")


def _problems(shown: Snapshot, now: float) -> str:
    found = counts(shown)
    return "".join(
        _problem_table(kind, title, [row for row in shown.problems if row.problem == kind], total, shown, now)
        for kind, title, total in _kinds(found)
    )


def _kinds(found: Counts) -> tuple[tuple[Problem, str, int], ...]:
    return ("failed", "Failed deployments", found.failed), ("stuck", "Stuck deployments", found.stuck)


def _problem_table(kind: Problem, title: str, rows: list[ProblemRow], total: int, shown: Snapshot, now: float) -> str:
    if not total and not rows:
        return f"<section><h2>{title}</h2><p>None.</p></section>\n"
    left_out = max(0, total - len(rows))
    note = f"<p>{left_out} more {'is' if left_out == 1 else 'are'} not listed.</p>" if left_out and rows else ""
    if not rows:
        note = f"<p>{total}, not listed one by one.</p>"
    body = "".join(_problem(row, shown.server_names, shown.config_names, now) for row in rows)
    headings = "".join(f'<th scope="col">{heading}</th>' for heading in _HEADINGS)
    table = (
        f'<table class="problems" aria-labelledby="{kind}"><thead><tr>{headings}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
        if rows
        else ""
    )
    return f'<section><h2 id="{kind}">{title}</h2>{note}{table}</section>\n'


def _problem(
    row: ProblemRow, server_names: Mapping[str, str], config_names: Mapping[str, ConfigName], now: float
) -> str:
    config = config_names.get(row.config_id)
    group = f' <span class="group">{foreign(config.group)}</span>' if config is not None and config.group else ""
    return (
        f"<tr><td>{_named(server_names.get(row.server_id, ''), row.server_id)}</td>"
        f"<td>{_named(config.name if config is not None else '', row.config_id)}{group}</td>"
        f"<td>{_or_none(row.action)}</td><td>{_or_none(row.deploy_status_code)}</td>"
        f"<td>{_ago(row.changed, now)} ago</td>"
        f'<td class="reason">{_or_none(row.reason)}</td><td>{_named("", row.deployment_id)}</td></tr>\n'
    )


def _named(name: str, identifier: str) -> str:
    called = f"{foreign(name)} " if name else ""
    return f'{called}<span class="id">{_or_none(identifier)}</span>'


# -- further pages


def configuration(config: str, clouds: str, *, now: float, home: bool) -> str:
    """The configuration in force, and what openstacksdk resolved; both YAML."""
    return (
        f"{_top(f'Configuration – {TITLE}', now)}<header><h1>Configuration in force</h1>"
        f"{_navigation('', home=home)}</header>\n<main>\n"
        f'<pre tabindex="0" aria-label="Configuration">{text(config)}</pre>\n<h2>What openstacksdk resolved</h2>\n'
        f'<pre tabindex="0" aria-label="Clouds">{text(clouds)}</pre>\n</main></body></html>\n'
    )


def message(title: str, *, now: float, home: bool) -> str:
    """A page that says why there is nothing else."""
    back = '<p><a href="./">All projects</a></p>' if home else ""
    return f"{_top(f'{title} – {TITLE}', now)}<main><h1>{text(title)}</h1>{back}</main></body></html>\n"


def _top(title: str, now: float) -> str:
    return (
        f'<!doctype html>\n<html lang="en" data-now="{now:.3f}"><head><meta charset="utf-8">'
        f"<title>{text(title)}</title>\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">\n'
        f'<link rel="stylesheet" href="{address("pages.css")}"><link rel="icon" href="{address("icon.svg")}">'
        f'<script src="{address("pages.js")}" defer></script></head>\n<body>\n'
    )
