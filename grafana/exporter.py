"""Exporter: whether what the other dashboards show can be relied on, and what it costs."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from grafana.parts import (
    AGE,
    ANY_IS_BAD,
    ANY_IS_ODD,
    CLOUD,
    EXPORTER,
    OURS,
    TARGET,
    board,
    buckets,
    distribution,
    filled,
    graph,
    now,
    query,
    stat,
    states,
)

_RATE = "[$__rate_interval]"


def _per_minute(family: str, by: str) -> str:
    """How often a counter of a cloud rises, by these labels; what never happens is left out."""
    return f"60 * sum by ({by}) (rate({family}{{{CLOUD}}}{_RATE})) > 0"


def dashboard() -> Dashboard:
    """The dashboard."""
    return filled(
        board(
            EXPORTER,
            "Software deployments / Exporter",
            "How the exporter itself is: can its data be relied on, what fails, and what does it cost?",
        ),
        {
            "": [
                states(
                    "Target",
                    "Whether Prometheus can scrape every target chosen above.",
                    now(f"min(up{{{TARGET}}} and on (job, instance) {OURS})"),
                    texts={1: ("up", "green"), 0: ("down", "red")},
                ),
                states(
                    "Configuration",
                    "Whether the configuration file was accepted when it was last read.",
                    now(f"min(heat_exporter_config_last_reload_successful{{{TARGET}}})"),
                    texts={1: ("accepted", "green"), 0: ("refused", "red")},
                ),
                stat(
                    "Versions",
                    "How many versions run: several only while one is rolled out.",
                    now(f"count(count by (version) (heat_exporter_build_info{{{TARGET}}}))"),
                    steps=((None, "green"), (2, "orange")),
                ),
                states(
                    "Looking up projects",
                    "Whether every cloud's projects were found when they were last looked up.",
                    now(f"min(heat_discovery_up{{{CLOUD}}})"),
                    texts={1: ("good", "green"), 0: ("failed", "red")},
                ),
                stat(
                    "Projects that fail",
                    "How many projects' last refresh failed.",
                    now(f"count(heat_up{{{CLOUD}}} == 0) or vector(0)"),
                    steps=ANY_IS_BAD,
                ),
                stat(
                    "Series withheld",
                    "How many series are left out because of a limit.",
                    now(f"sum(heat_series_withheld{{{CLOUD}}})"),
                    steps=ANY_IS_ODD,
                ),
            ],
            "Refreshes": [
                graph(
                    "Refresh duration",
                    "How long a refresh of a project takes, by cloud: a cloud that slows down shows here first.",
                    *(
                        query(
                            f"histogram_quantile({share}, sum by (cloud, le)"
                            f" (rate(heat_refresh_duration_seconds_bucket{{{CLOUD}}}{_RATE})))",
                            f"{name} of {{{{cloud}}}}",
                        )
                        for share, name in ((0.5, "median"), (0.99, "99 %"))
                    ),
                    unit="s",
                ),
                distribution(
                    "Refresh durations",
                    "The same as a distribution: whether few refreshes are slow, or all are.",
                    buckets(f"sum by (le) (increase(heat_refresh_duration_seconds_bucket{{{CLOUD}}}{_RATE}))"),
                ),
                graph(
                    "Failures by reason",
                    "What fails, per minute: auth and forbidden are credentials; dns, tls, connect and timeout the"
                    " network; server_error and rate_limited the cloud.",
                    query(
                        _per_minute("heat_refresh_failures_total", "cloud, api, reason"), "{{cloud}} {{api}} {{reason}}"
                    ),
                    query(
                        _per_minute("heat_discovery_failures_total", "cloud, api, reason"),
                        "{{cloud}} {{api}} {{reason}} (looking up projects)",
                    ),
                    unit="cpm",
                ),
                graph(
                    "Interval in force",
                    "How often a project is asked for: longer than refresh.interval where the cloud is slow or has many"
                    " projects.",
                    query(f"max by (cloud) (heat_refresh_interval_seconds{{{CLOUD}}})", "longest in {{cloud}}"),
                    query(f"min by (cloud) (heat_refresh_interval_seconds{{{CLOUD}}})", "shortest in {{cloud}}"),
                    unit="s",
                ),
                graph(
                    "Slowest projects",
                    "Which projects' last refresh took longest.",
                    query(
                        f"topk(10, max by (cloud, project) (heat_last_refresh_duration_seconds{{{CLOUD}}}))",
                        "{{cloud}} {{project}}",
                    ),
                    unit="s",
                ),
                graph(
                    "Largest listings",
                    "The size of the projects' listings, decompressed; one above limits.response_bytes is refused.",
                    query(
                        f"topk(10, max by (cloud, project) (heat_refresh_response_bytes{{{CLOUD}}}))",
                        "{{cloud}} {{project}}",
                    ),
                    unit="bytes",
                ),
                graph(
                    "Age of the data",
                    "How far the project that is furthest behind is behind, by cloud.",
                    query(
                        f"max by (cloud) (time() - (heat_last_refresh_success_timestamp_seconds{{{CLOUD}}} > 0))",
                        "{{cloud}}",
                    ),
                    unit="s",
                    steps=AGE,
                ),
                graph(
                    "Turns missed",
                    "Refreshes per minute that came due while the last one was still under way.",
                    query(f"60 * sum by (cloud) (rate(heat_refreshes_skipped_total{{{CLOUD}}}{_RATE}))", "{{cloud}}"),
                    unit="cpm",
                ),
            ],
            "What the clouds are asked": [
                graph(
                    "Requests by answer",
                    "Requests to the clouds' APIs, by status code; error is no answer at all.",
                    query(
                        f"sum by (cloud, api, code) (rate(heat_api_requests_total{{{CLOUD}}}{_RATE}))",
                        "{{cloud}} {{api}} {{code}}",
                    ),
                    unit="reqps",
                ),
                graph(
                    "Authentications",
                    "Tokens asked for, per minute: few, for each is used until it expires.",
                    query(f"60 * sum by (cloud) (rate(heat_authentications_total{{{CLOUD}}}{_RATE}))", "{{cloud}}"),
                    unit="cpm",
                ),
            ],
            "Projects": [
                graph(
                    "Projects by state",
                    "How many projects have fresh data, fail, or show none any more.",
                    query(f"sum by (cloud, state) (heat_projects{{{CLOUD}}})", "{{cloud}} {{state}}"),
                ),
                graph(
                    "Projects removed",
                    "Projects no longer watched within the time range, since the exporter's start: gone, disabled, or"
                    " taken out of the configuration.",
                    query(
                        f"sum by (cloud, reason) (increase(heat_projects_removed_total{{{CLOUD}}}[$__range]))",
                        "{{cloud}} {{reason}}",
                    ),
                ),
                graph(
                    "Time since projects were looked up",
                    "How long ago each cloud's projects were last found: new ones are unseen for that long.",
                    query(
                        f"max by (cloud) (time() - (heat_discovery_last_success_timestamp_seconds{{{CLOUD}}} > 0))",
                        "{{cloud}}",
                    ),
                    unit="s",
                ),
                graph(
                    "Admin tokens",
                    "Clouds in which the exporter uses an administrator's token; use a user with the role reader.",
                    query(f"max by (cloud) (heat_cloud_admin_token{{{CLOUD}}})", "{{cloud}}"),
                    unit="bool_yes_no",
                    maximum=1,
                ),
            ],
            "Limits and odd records": [
                graph(
                    "Series withheld by limits",
                    "How many series are left out, by family; totals count everything all the same.",
                    query(f"sum by (cloud, family) (heat_series_withheld{{{CLOUD}}})", "{{cloud}} {{family}}"),
                ),
                graph(
                    "Records rejected or met again",
                    "Records of listings that can't be used, and deployments met twice, per minute.",
                    query(
                        _per_minute("heat_records_rejected_total", "cloud, reason"), "{{cloud}} rejected: {{reason}}"
                    ),
                    query(_per_minute("heat_duplicate_records_total", "cloud"), "{{cloud}} met again"),
                    unit="cpm",
                ),
            ],
            "What the exporter costs": [
                graph(
                    "Memory",
                    "Resident memory of each exporter.",
                    query(f"process_resident_memory_bytes{{{TARGET}}} and on (job, instance) {OURS}", "{{instance}}"),
                    unit="bytes",
                    width=8,
                ),
                graph(
                    "CPU",
                    "Cores that each exporter keeps busy.",
                    query(
                        f"rate(process_cpu_seconds_total{{{TARGET}}}{_RATE}) and on (job, instance) {OURS}",
                        "{{instance}}",
                    ),
                    unit="none",
                    width=8,
                ),
                graph(
                    "Open files",
                    "Sockets and files that each exporter has open.",
                    query(f"process_open_fds{{{TARGET}}} and on (job, instance) {OURS}", "{{instance}}"),
                    width=8,
                ),
                graph(
                    "Scrape duration",
                    "How long Prometheus takes for a scrape of each target (the slowest ten).",
                    query(
                        f"topk(10, scrape_duration_seconds{{{TARGET}}} and on (job, instance) {OURS})", "{{instance}}"
                    ),
                    unit="s",
                ),
                graph(
                    "Samples in a scrape",
                    "How many samples a scrape brings (the largest ten).",
                    query(
                        f"topk(10, scrape_samples_scraped{{{TARGET}}} and on (job, instance) {OURS})", "{{instance}}"
                    ),
                ),
            ],
        },
    )
