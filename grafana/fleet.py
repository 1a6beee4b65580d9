"""Fleet: everything that is watched, and where to look first."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from grafana.parts import (
    AGE,
    ANY_IS_BAD,
    ANY_IS_ODD,
    CLOUD,
    FLEET,
    GOOD,
    PROJECT,
    RATIO,
    STATUS_COLORS,
    STUCK,
    bars,
    board,
    buckets,
    distribution,
    filled,
    graph,
    named,
    now,
    query,
    rows,
    stat,
    table,
)

_PER = "cloud, project_id, project"
_ALL = f"heat_software_deployments{{{CLOUD}}}"
_FAILED = f'heat_software_deployments{{{CLOUD}, status="FAILED"}}'
_FINISHED = f"heat_software_deployment_finished_total{{{CLOUD}}}"
_FINISHED_BADLY = f'heat_software_deployment_finished_total{{{CLOUD}, status="FAILED"}}'
_DURATION = f"heat_software_deployment_duration_seconds_bucket{{{CLOUD}}}"
_RUNNING_SINCE = f'heat_software_deployment_oldest_change_timestamp_seconds{{{CLOUD}, status="IN_PROGRESS"}}'
_SUCCESS = f"heat_last_refresh_success_timestamp_seconds{{{CLOUD}}}"

_WORST_PROJECTS = f"topk(10, sum by ({_PER}) ({_FAILED}) > 0)"
_WORST_SERVERS = f'topk(10, sum by ({_PER}, server_id) (heat_server_software_deployments{{{CLOUD}, status="FAILED"}}))'
_WORST_CONFIGS = (
    f'topk(10, sum by ({_PER}, config_name, group) (heat_software_config_deployments{{{CLOUD}, status="FAILED"}}) > 0)'
)

_TO_PROJECT = (
    f"/d/{PROJECT}?var-cloud=${{__data.fields.cloud}}&var-project=${{__data.fields.project}}&${{__url_time_range}}"
)
_TO_SERVER = f"{_TO_PROJECT}&var-server=${{__data.fields.server_id}}"


def dashboard() -> Dashboard:
    """The dashboard."""
    return filled(
        board(
            FLEET,
            "Software deployments / Fleet",
            "All software deployments of all clouds: how they are, and where it is worst.",
        ),
        {
            "": [
                stat("Deployments", "How many software deployments there are.", now(f"sum({_ALL})")),
                stat(
                    "Failed",
                    "How many of them are FAILED now, however long ago that happened.",
                    now(f"sum({_FAILED})"),
                    steps=ANY_IS_ODD,
                ),
                stat(
                    "In progress",
                    "How many are IN_PROGRESS now.",
                    now(f'sum(heat_software_deployments{{{CLOUD}, status="IN_PROGRESS"}})'),
                ),
                stat(
                    "Stuck",
                    "How many are IN_PROGRESS and have not changed for longer than thresholds.stuck_after.",
                    now(f"sum(heat_software_deployments_stuck{{{CLOUD}}})"),
                    steps=ANY_IS_BAD,
                ),
                stat(
                    "Failed of those that finished",
                    "Which share of the deployments that finished within the time range failed.",
                    now(f"sum(increase({_FINISHED_BADLY}[$__range])) / (sum(increase({_FINISHED}[$__range])) > 0)"),
                    unit="percentunit",
                    steps=RATIO,
                ),
                stat(
                    "Projects without fresh data",
                    "How many projects fail to be refreshed, or show no data any more: what this dashboard says of them"
                    " is old or missing.",
                    now(f'sum(heat_projects{{{CLOUD}, state=~"failing|stale"}})'),
                    steps=ANY_IS_BAD,
                ),
            ],
            "Over time": [
                graph(
                    "Deployments by status",
                    "Does the number of failed or running deployments rise?",
                    query(f"sum by (status) ({_ALL})", "{{status}}"),
                    stacked=True,
                    colors=STATUS_COLORS,
                ),
                graph(
                    "Failure ratio",
                    "Which share of what finishes fails, by cloud; and which share of all there is has failed.",
                    query(
                        f"sum by (cloud) (rate({_FINISHED_BADLY}[$__rate_interval]))"
                        f" / (sum by (cloud) (rate({_FINISHED}[$__rate_interval])) > 0)",
                        "finishing in {{cloud}}",
                    ),
                    query(f"sum by (cloud) ({_FAILED}) / (sum by (cloud) ({_ALL}) > 0)", "all of {{cloud}}"),
                    unit="percentunit",
                    steps=RATIO,
                    maximum=1,
                ),
                graph(
                    "Finishing rate",
                    "How many deployments reach COMPLETE or FAILED per minute: does work go on, and does it end well?",
                    query(f"60 * sum by (status) (rate({_FINISHED}[$__rate_interval]))", "{{status}}", exemplars=True),
                    unit="cpm",
                    colors=STATUS_COLORS,
                ),
                graph(
                    "Time to finish",
                    "How long deployments take whose start is known. Points are exemplars: single deployments.",
                    *(
                        query(
                            f"histogram_quantile({share}, sum by (le) (rate({_DURATION}[$__rate_interval])))",
                            name,
                            exemplars=True,
                        )
                        for share, name in ((0.5, "median"), (0.9, "90 %"), (0.99, "99 %"))
                    ),
                    unit="s",
                ),
            ],
            "In progress": [
                distribution(
                    "Time in progress",
                    "How long the deployments that are IN_PROGRESS have been so: a climbing band is work that hangs.",
                    buckets(
                        "sum by (le)"
                        f' (heat_software_deployment_state_age_seconds_bucket{{{CLOUD}, status="IN_PROGRESS"}})'
                    ),
                ),
                table(
                    "Oldest in progress",
                    "In which projects something has been IN_PROGRESS for the longest time.",
                    {"In progress for": (rows(f"topk(10, time() - min by ({_PER}) ({_RUNNING_SINCE}))"), "s", STUCK)},
                    sort="In progress for",
                    hidden=["project_id"],
                    renamed={"cloud": "Cloud", "project": "Project"},
                    link=("Project", _TO_PROJECT),
                    width=12,
                    height=8,
                ),
            ],
            "The worst": [
                table(
                    "Worst projects",
                    "The projects with the most failed deployments, the share of them, and how many are stuck.",
                    {
                        "Failed": (rows(_WORST_PROJECTS), "short", ANY_IS_ODD),
                        "Share": (
                            rows(
                                f"sum by ({_PER}) ({_FAILED}) / (sum by ({_PER}) ({_ALL}) > 0)"
                                f" and on ({_PER}) {_WORST_PROJECTS}"
                            ),
                            "percentunit",
                            RATIO,
                        ),
                        "Stuck": (
                            rows(
                                f"sum by ({_PER}) (heat_software_deployments_stuck{{{CLOUD}}})"
                                f" and on ({_PER}) {_WORST_PROJECTS}"
                            ),
                            "short",
                            ANY_IS_BAD,
                        ),
                    },
                    sort="Failed",
                    hidden=["project_id"],
                    renamed={"cloud": "Cloud", "project": "Project"},
                    link=("Project", _TO_PROJECT),
                ),
                table(
                    "Worst servers",
                    "The servers with the most failed deployments.",
                    {
                        "Failed": (
                            rows(
                                named(
                                    _WORST_SERVERS,
                                    by="server_id",
                                    info=f"heat_server_info{{{CLOUD}}}",
                                    names="server_name",
                                    row="server_id",
                                )
                            ),
                            "short",
                            ANY_IS_ODD,
                        )
                    },
                    sort="Failed",
                    hidden=["project_id"],
                    renamed={
                        "cloud": "Cloud",
                        "project": "Project",
                        "server_id": "Server",
                        "server_name": "Name",
                    },
                    link=("Server", _TO_SERVER),
                ),
                table(
                    "Worst configs",
                    "The software configs, by name, whose deployments failed most often.",
                    {"Failed": (rows(_WORST_CONFIGS), "short", ANY_IS_ODD)},
                    sort="Failed",
                    hidden=["project_id"],
                    renamed={"cloud": "Cloud", "project": "Project", "config_name": "Config", "group": "Group"},
                    link=("Project", _TO_PROJECT),
                ),
                bars(
                    "Exit codes of failed deployments",
                    "Why they failed: 126 and 127 are broken scripts, 137 is killed (mostly memory), 124 and 143 ran"
                    " too long; none reported no code.",
                    now(
                        "topk(12, sum by (deploy_status_code)"
                        f' (heat_software_deployment_status_codes{{{CLOUD}, status="FAILED"}}))',
                        "{{deploy_status_code}}",
                    ),
                    steps=ANY_IS_ODD,
                    width=12,
                ),
                graph(
                    "Exit codes over time",
                    "Whether a kind of failure is new.",
                    query(
                        "topk(12, sum by (deploy_status_code)"
                        f' (heat_software_deployment_status_codes{{{CLOUD}, status="FAILED"}}))',
                        "{{deploy_status_code}}",
                    ),
                    stacked=True,
                ),
            ],
            "Freshness of the data": [
                graph(
                    "Age of the data",
                    "How long ago the data of the project that is furthest behind was asked for, by cloud, beside three"
                    " times the interval in force: past that the data is withdrawn.",
                    query(f"max by (cloud) (time() - ({_SUCCESS} > 0))", "{{cloud}}"),
                    query(
                        f"3 * max by (cloud) (heat_refresh_interval_seconds{{{CLOUD}}})", "three intervals in {{cloud}}"
                    ),
                    unit="s",
                    steps=AGE,
                ),
                graph(
                    "Projects by state",
                    "How many projects have fresh data, fail, or show none any more.",
                    query(f"sum by (state) (heat_projects{{{CLOUD}}})", "{{state}}"),
                    stacked=True,
                    steps=GOOD,
                    colors={"fresh": "green", "pending": "blue", "failing": "orange", "stale": "red"},
                ),
            ],
        },
    )
