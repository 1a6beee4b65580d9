"""Project and server: what is wrong in one project, and on one server."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from grafana.parts import (
    AGE,
    ANY_IS_BAD,
    ANY_IS_ODD,
    GOOD,
    PROJECT,
    PROJECTS,
    RATIO,
    STATUS_COLORS,
    STUCK,
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
    states,
    table,
    variable,
)

_SERVERS = f'{PROJECTS}, server_id=~"$server"'
_ALL = f"heat_software_deployments{{{PROJECTS}}}"
_FAILED = f'heat_software_deployments{{{PROJECTS}, status="FAILED"}}'
_FINISHED = f"heat_software_deployment_finished_total{{{PROJECTS}}}"
_DURATION = f"heat_software_deployment_duration_seconds_bucket{{{PROJECTS}}}"
_PER_SERVER = f"heat_server_software_deployments{{{_SERVERS}}}"
_PROBLEM = (
    "max by (cloud, project_id, problem, deployment_id, server_id, config_id, status, action, deploy_status_code)"
    f" (time() - heat_software_deployment_problem_timestamp_seconds{{{_SERVERS}}})"
)
_SERVER_FAILED = (
    f'sum by (cloud, project_id, server_id) (heat_server_software_deployments{{{_SERVERS}, status="FAILED"}})'
)
_TO_SERVER = (
    f"/d/{PROJECT}?var-cloud=${{cloud}}&var-project=${{project}}&var-server=${{__data.fields.server_id}}"
    "&${__url_time_range}"
)


def dashboard() -> Dashboard:
    """The dashboard."""
    made = board(
        PROJECT,
        "Software deployments / Project and server",
        "The software deployments of one project and its servers: what failed or hangs, since when and why.",
        one_cloud=True,
    )
    made = made.with_variable(
        variable(
            "project",
            "Project",
            'label_values(heat_refreshes_total{job=~"$job", instance=~"$instance", cloud=~"$cloud"}, project)',
            several=False,
        )
    ).with_variable(
        variable(
            "server",
            "Server",
            f"label_values(heat_server_software_deployments{{{PROJECTS}}}, server_id)",
            # Rows of problems can be without a server.
            everything=".*",
        )
    )
    return filled(
        made,
        {
            "": [
                stat("Deployments", "How many software deployments the project has.", now(f"sum({_ALL})")),
                stat("Failed", "How many of them are FAILED now.", now(f"sum({_FAILED})"), steps=ANY_IS_ODD),
                stat(
                    "Stuck",
                    "How many are IN_PROGRESS and have not changed for longer than thresholds.stuck_after.",
                    now(f"sum(heat_software_deployments_stuck{{{PROJECTS}}})"),
                    steps=ANY_IS_BAD,
                ),
                stat(
                    "Last change",
                    "How long ago a deployment of the project last changed.",
                    now(f"time() - max(heat_software_deployment_newest_change_timestamp_seconds{{{PROJECTS}}})"),
                    unit="s",
                ),
                states(
                    "Last refresh",
                    "Whether the exporter could read the project's deployments when it last tried.",
                    now(f"min(heat_up{{{PROJECTS}}})"),
                    texts={1: ("good", "green"), 0: ("failed", "red")},
                ),
                stat(
                    "Age of the data",
                    "How long ago the data shown here was asked for.",
                    now(f"time() - max(heat_last_refresh_success_timestamp_seconds{{{PROJECTS}}} > 0)"),
                    unit="s",
                    steps=AGE,
                ),
            ],
            "Trouble": [
                table(
                    "Failed and stuck deployments",
                    "Each failed or stuck deployment with its exit code, and how long it has been so. At most"
                    " limits.problems of them, the newest failures and the oldest stuck ones.",
                    {
                        "For": (
                            rows(
                                named(
                                    _PROBLEM,
                                    by="config_id",
                                    info=f"heat_software_config_info{{{PROJECTS}}}",
                                    names="config_name, group",
                                    row="deployment_id",
                                )
                            ),
                            "s",
                            STUCK,
                        )
                    },
                    sort="For",
                    hidden=["cloud", "project_id", "config_id"],
                    renamed={
                        "problem": "Problem",
                        "deployment_id": "Deployment",
                        "server_id": "Server",
                        "config_name": "Config",
                        "group": "Group",
                        "status": "Status",
                        "action": "Action",
                        "deploy_status_code": "Exit code",
                    },
                    link=("Server", _TO_SERVER),
                    width=24,
                    height=10,
                ),
                table(
                    "Failed by server",
                    "Whether the failures are those of few servers.",
                    {
                        "Failed": (
                            rows(
                                named(
                                    _SERVER_FAILED,
                                    by="server_id",
                                    info=f"heat_server_info{{{PROJECTS}}}",
                                    names="server_name",
                                    row="server_id",
                                )
                            ),
                            "short",
                            ANY_IS_ODD,
                        )
                    },
                    sort="Failed",
                    hidden=["cloud", "project_id"],
                    renamed={"server_id": "Server", "server_name": "Name"},
                    link=("Server", _TO_SERVER),
                ),
                table(
                    "Failed by config",
                    "Whether the failures are those of one software config, by its name, and how often it fails.",
                    {
                        "Failed": (
                            rows(
                                "sum by (config_name, group)"
                                f' (heat_software_config_deployments{{{PROJECTS}, status="FAILED"}}) > 0'
                            ),
                            "short",
                            ANY_IS_ODD,
                        ),
                        "Share": (
                            rows(
                                "sum by (config_name, group)"
                                f' (heat_software_config_deployments{{{PROJECTS}, status="FAILED"}})'
                                " / (sum by (config_name, group)"
                                f" (heat_software_config_deployments{{{PROJECTS}}}) > 0) > 0"
                            ),
                            "percentunit",
                            RATIO,
                        ),
                    },
                    sort="Failed",
                    renamed={"config_name": "Config", "group": "Group"},
                ),
                graph(
                    "Exit codes of failed deployments",
                    "Why they failed: 126 and 127 are broken scripts, 137 is killed, none reported no code.",
                    query(
                        "sum by (deploy_status_code)"
                        f' (heat_software_deployment_status_codes{{{PROJECTS}, status="FAILED"}})',
                        "{{deploy_status_code}}",
                    ),
                    stacked=True,
                    width=8,
                ),
            ],
            "The project over time": [
                graph(
                    "Deployments by status",
                    "Does the number of failed or running deployments rise?",
                    query(f"sum by (status) ({_ALL})", "{{status}}"),
                    stacked=True,
                    colors=STATUS_COLORS,
                ),
                graph(
                    "Finishing rate",
                    "How many deployments reach COMPLETE or FAILED per minute, by what was done.",
                    query(
                        f"60 * sum by (status, action) (rate({_FINISHED}[$__rate_interval])) > 0",
                        "{{status}} {{action}}",
                        exemplars=True,
                    ),
                    unit="cpm",
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
                        for share, name in ((0.5, "median"), (0.9, "90 %"))
                    ),
                    unit="s",
                ),
                distribution(
                    "Time in progress",
                    "How long the deployments that are IN_PROGRESS have been so: a climbing band is work that hangs.",
                    buckets(
                        "sum by (le)"
                        f' (heat_software_deployment_state_age_seconds_bucket{{{PROJECTS}, status="IN_PROGRESS"}})'
                    ),
                ),
            ],
            "The servers over time": [
                graph(
                    "Deployments of the servers by status",
                    "What happened on the servers chosen above.",
                    query(f"sum by (status) ({_PER_SERVER})", "{{status}}"),
                    stacked=True,
                    colors=STATUS_COLORS,
                ),
                graph(
                    "Failed deployments by server",
                    "Since when which of the servers chosen above has failures.",
                    query(
                        f"topk(20, {_SERVER_FAILED})",
                        "{{server_id}}",
                    ),
                    steps=GOOD,
                ),
            ],
        },
    )
