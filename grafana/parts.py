"""What the dashboards share: variables, queries, panels, links, and the text of a file.

A panel is made of a title, a description that says what it answers, and queries; each has a unit.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from grafana_foundation_sdk.builders import bargauge as bargauges
from grafana_foundation_sdk.builders import common as options
from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.builders import heatmap as heatmaps
from grafana_foundation_sdk.builders import prometheus as queries
from grafana_foundation_sdk.builders import stat as stats
from grafana_foundation_sdk.builders import table as tables
from grafana_foundation_sdk.builders import timeseries as graphs
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, heatmap
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FLEET: Final = "heat-deployment-fleet"
PROJECT: Final = "heat-deployment-project"
EXPORTER: Final = "heat-deployment-exporter"
"""The uids: they stand in links and in alerts, and never change."""
TAG: Final = "heat-deployment"

TARGET: Final = 'job=~"$job", instance=~"$instance"'
CLOUD: Final = f'{TARGET}, cloud=~"$cloud"'
PROJECTS: Final = f'{CLOUD}, project=~"$project"'
"""The matchers of every selector, by what a family is about."""

OURS: Final = (
    f"group by (job, instance) (last_over_time(heat_exporter_build_info{{{TARGET}}}[$__range])"
    f" or last_over_time(heat_refresh_interval_seconds{{{TARGET}}}[$__range]))"
)
"""The targets that are exporters (or one's probes): `job` and `instance` match everything where All is chosen."""
_ANY: Final = '__name__=~"heat_exporter_build_info|heat_refreshes_total"'

SOURCE: Final = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
STATUS_COLORS: Final = {"COMPLETE": "green", "IN_PROGRESS": "blue", "FAILED": "red"}

Panel = TypeVar("Panel")
Steps = Sequence[tuple[float | None, str]]
GOOD: Final[Steps] = ((None, "green"),)
ANY_IS_BAD: Final[Steps] = ((None, "green"), (1, "red"))
ANY_IS_ODD: Final[Steps] = ((None, "green"), (1, "orange"))
RATIO: Final[Steps] = ((None, "green"), (0.05, "orange"), (0.2, "red"))
AGE: Final[Steps] = ((None, "green"), (300, "orange"), (1800, "red"))
STUCK: Final[Steps] = ((None, "green"), (3600, "orange"), (86400, "red"))


# -- queries


def query(expr: str, legend: str = "", *, exemplars: bool = False) -> queries.Dataquery:
    """A query over the time range; with exemplars, where the family has some."""
    return queries.Dataquery().expr(_tidy(expr)).legend_format(legend or "__auto").range().exemplar(exemplars)


def now(expr: str, legend: str = "") -> queries.Dataquery:
    """A query at the end of the time range."""
    return queries.Dataquery().expr(_tidy(expr)).legend_format(legend or "__auto").instant().exemplar(False)


def rows(expr: str) -> queries.Dataquery:
    """The same, for a table: a row for each series."""
    return now(expr).format(PromQueryFormat.TABLE)


def buckets(expr: str) -> queries.Dataquery:
    """A query for a heatmap: a series for each upper bound."""
    return query(expr, "{{le}}").format(PromQueryFormat.HEATMAP)


def named(expr: str, *, by: str, info: str, names: str, row: str) -> str:
    """The series of `expr` with further labels of an info family, or without where it has nothing to say.

    `by` is what the two share besides the project, `row` what tells the rows of `expr` apart.
    """
    labels = f"cloud, project_id, {by}"
    return (
        f"{expr} * on ({labels}) group_left ({names}) max by ({labels}, {names}) ({info})"
        f" or on (cloud, project_id, {row}) {expr}"
    )


def _tidy(expr: str) -> str:
    return " ".join(expr.split())


# -- panels


def stat(
    title: str, description: str, target: queries.Dataquery, *, unit: str = "short", steps: Steps = GOOD, width: int = 4
) -> stats.Panel:
    """One number, coloured by thresholds."""
    return _sized(
        stats.Panel()
        .unit(unit)
        .thresholds(_thresholds(steps))
        .reduce_options(options.ReduceDataOptions().calcs(["lastNotNull"]))
        .color_mode(common.BigValueColorMode.VALUE)
        .graph_mode(common.BigValueGraphMode.NONE),
        title,
        description,
        [target],
        width,
        4,
    )


def states(
    title: str, description: str, target: queries.Dataquery, *, texts: Mapping[float, tuple[str, str]], width: int = 4
) -> stats.Panel:
    """Numbers that mean something: each has a text and a colour."""
    mapping = model.ValueMap(
        options={
            f"{value:g}": model.ValueMappingResult(text=text, color=color, index=index)
            for index, (value, (text, color)) in enumerate(texts.items())
        }
    )
    return stat(title, description, target, unit="none", width=width).mappings([mapping])


def graph(
    title: str,
    description: str,
    *targets: queries.Dataquery,
    unit: str = "short",
    steps: Steps = (),
    stacked: bool = False,
    colors: Mapping[str, str] | None = None,
    maximum: float | None = None,
    width: int = 12,
) -> graphs.Panel:
    """Lines over time, with thresholds as dashed lines."""
    panel = (
        graphs.Panel()
        .unit(unit)
        .min(0)
        .fill_opacity(25 if stacked else 8)
        .show_points(common.VisibilityMode.NEVER)
        .legend(
            options.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.TABLE)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(options.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
        .thresholds(_thresholds(steps or GOOD))
    )
    if steps:
        style = options.GraphThresholdsStyleConfig().mode(common.GraphTresholdsStyleMode.DASHED)
        panel = panel.thresholds_style(style)
    if stacked:
        panel = panel.stacking(options.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if maximum is not None:
        panel = panel.max(maximum)
    for name, color in (colors or {}).items():
        panel = panel.override_by_name(
            name, [model.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": color})]
        )
    return _sized(panel, title, description, targets, width, 8)


def distribution(
    title: str, description: str, target: queries.Dataquery, *, unit: str = "s", width: int = 12
) -> heatmaps.Panel:
    """A heatmap of buckets over time."""
    return _sized(
        heatmaps.Panel()
        .calculate(False)
        .unit("short")
        .y_axis(heatmaps.YAxisConfig().unit(unit).axis_placement(common.AxisPlacement.LEFT))
        .cell_values(heatmaps.CellValues().unit("short"))
        .color(
            heatmaps.HeatmapColorOptions()
            .mode(heatmap.HeatmapColorMode.SCHEME)
            .scheme("Oranges")
            .fill("dark-orange")
            .exponent(0.5)
            .steps(64)
            .reverse(False)
        )
        .filter_values(heatmaps.FilterValueRange().le(1e-9))
        .rows_frame(heatmaps.RowsHeatmapOptions().layout(common.HeatmapCellLayout.AUTO))
        .show_legend()
        .show_tooltip()
        .thresholds(_thresholds(GOOD)),
        title,
        description,
        [target],
        width,
        8,
    )


def bars(
    title: str, description: str, target: queries.Dataquery, *, unit: str = "short", steps: Steps = GOOD, width: int = 8
) -> bargauges.Panel:
    """A bar for each series, now."""
    return _sized(
        bargauges.Panel()
        .unit(unit)
        .min(0)
        .thresholds(_thresholds(steps))
        .orientation(common.VizOrientation.HORIZONTAL)
        .display_mode(common.BarGaugeDisplayMode.BASIC)
        .reduce_options(options.ReduceDataOptions().calcs(["lastNotNull"])),
        title,
        description,
        [target],
        width,
        9,
    )


def table(
    title: str,
    description: str,
    columns: Mapping[str, tuple[queries.Dataquery, str, Steps]],
    *,
    sort: str,
    hidden: Sequence[str] = (),
    renamed: Mapping[str, str] | None = None,
    link: tuple[str, str] | None = None,
    width: int = 8,
    height: int = 9,
) -> tables.Panel:
    """A row for each series: its labels, and a column for each query with its unit and thresholds.

    `link` is the column that leads on, and the address it leads to.
    """
    refs = dict(zip(columns, string.ascii_uppercase, strict=False))
    values = {f"Value #{ref}" if len(refs) > 1 else "Value": name for name, ref in refs.items()}
    panel = (
        tables.Panel()
        .unit("none")
        .thresholds(_thresholds(GOOD))
        .with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            model.DataTransformerConfig(
                id_val="organize",
                options={
                    "excludeByName": dict.fromkeys(["Time", "__name__", "job", "instance", *hidden], True),
                    "renameByName": {**(renamed or {}), **values},
                },
            )
        )
        .sort_by([options.TableSortByFieldState().display_name(sort).desc(True)])
    )
    for name, (_, unit, steps) in columns.items():
        panel = panel.override_by_name(
            name,
            [
                model.DynamicConfigValue("unit", unit),
                model.DynamicConfigValue("thresholds", _thresholds(steps).build()),
                model.DynamicConfigValue("custom.cellOptions", {"type": "color-text"}),
            ],
        )
    if link is not None:
        column, address = link
        where = [{"title": "Show", "url": address, "targetBlank": False}]
        panel = panel.override_by_name(column, [model.DynamicConfigValue("links", where)])
    return _sized(panel, title, description, [each[0] for each in columns.values()], width, height)


def _thresholds(steps: Steps) -> dashboards.ThresholdsConfig:
    return (
        dashboards.ThresholdsConfig()
        .mode(model.ThresholdsMode.ABSOLUTE)
        .steps([model.Threshold(value=value, color=color) for value, color in steps])
    )


def _sized(
    panel: Panel, title: str, description: str, targets: Iterable[queries.Dataquery], width: int, height: int
) -> Panel:
    # The builders of all panel types have these methods, and no class in common that has them.
    any_panel: Any = panel
    any_panel.title(title).description(description).datasource(SOURCE).span(width).height(height)
    for ref, target in zip(string.ascii_uppercase, targets, strict=False):
        any_panel.with_target(target.datasource(SOURCE).ref_id(ref))
    return panel


# -- dashboards


def variable(
    name: str, label: str, source: str, *, several: bool = True, everything: str = ".+", description: str = ""
) -> dashboards.QueryVariable:
    """A variable whose values are a label's; with `several`, any number of them or all."""
    made = (
        dashboards.QueryVariable(name)
        .label(label)
        .description(description)
        .datasource(SOURCE)
        .query(source)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(several)
        .include_all(several)
    )
    if several:
        chosen = model.VariableOption(selected=True, text=["All"], value=["$__all"])
        made = made.all_value(everything).current(chosen)
    return made


def board(uid: str, title: str, description: str, *, one_cloud: bool = False) -> dashboards.Dashboard:
    """An empty dashboard with the variables that all have, links to the others, and alerts as annotations."""
    return (
        dashboards.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .readonly()
        .timezone("browser")
        .time("now-6h", "now")
        .refresh("1m")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .link(
            dashboards.DashboardLink("Software deployments")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .tooltip("The other dashboards of the same exporter")
            .include_vars(True)
            .keep_time(True)
        )
        .annotation(
            dashboards.AnnotationQuery()
            .name("Alerts")
            .datasource(SOURCE)
            .enable(True)
            .icon_color("red")
            .expr('ALERTS{alertname=~"HeatDeployment.+", alertstate="firing", severity=~"critical|warning"}')
        )
        .with_variable(dashboards.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(variable("job", "Job", f"label_values({{{_ANY}}}, job)"))
        .with_variable(variable("instance", "Instance", f'label_values({{{_ANY}, job=~"$job"}}, instance)'))
        .with_variable(
            variable("cloud", "Cloud", f"label_values(heat_refreshes_total{{{TARGET}}}, cloud)", several=not one_cloud)
        )
    )


def filled(dashboard: dashboards.Dashboard, sections: Mapping[str, Sequence[Any]]) -> dashboards.Dashboard:
    """The dashboard with panels below headings; those of the heading "" come first, below none."""
    for title, panels in sections.items():
        if title:
            dashboard = dashboard.with_row(dashboards.Row(title))
        for panel in panels:
            dashboard = dashboard.with_panel(panel)
    return dashboard


def render(dashboard: dashboards.Dashboard) -> str:
    """The text of its file: the same for the same dashboard, every panel with a number of its own."""
    built = dashboard.build()
    for number, panel in enumerate(built.panels or [], start=1):
        panel.id_val = number
    return JSONEncoder(indent=2, sort_keys=True, ensure_ascii=False).encode(built) + "\n"
