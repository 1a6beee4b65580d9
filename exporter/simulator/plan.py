"""What a simulated cloud is like: its size, its liveliness and its faults."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.simulator.outputs import STYLES, Style


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The options of a simulated cloud; the defaults are the demo's. The same plan and seed make the same ids."""

    projects: int = 4
    disabled_projects: int = 1
    """Further projects that are listed with `enabled: false`."""
    servers: int = 60
    deployments: int = 400
    output_bytes: int = 400
    """The usual size of a deployment's stdout and stderr together."""
    output_style: Style = "mixed"
    """What deployments print: `plain` lines, JSON of `ansible` on one line, `nested` lists of objects (inputs too),
    `unicode` text of many scripts, which the API sends in UTF-8, or `mixed`, a quarter of each, with Heat's escapes."""
    history: float = 30 * 86400.0
    """How many seconds back the first deployments were created."""
    churn: float = 0.5
    """Actions that start per second, in the whole cloud; 0 is a cloud where nothing happens."""
    faults: float = 0.0
    """The share of requests, 0 to 1, that end in 500, 503, 429 or a connection reset."""
    seed: int = 1
    token_lifetime: float = 3600.0
    auth_delay: float = 0.0
    """Seconds that one authentication takes (a real Keystone: 0.3 to 0.8)."""
    delay_per_deployment: float = 0.0
    """Seconds of silence before a listing's first byte, for each deployment in it (a real Heat: 0.0002)."""
    bytes_per_second: float = 0.0
    """How fast listings are sent; 0 is as fast as the client reads."""

    def __post_init__(self) -> None:
        """Refuse sizes that make no cloud, rather than fail later in odd ways."""
        if self.projects < 1 or self.servers < 1:
            raise ValueError("a simulated cloud has at least one project and one server")
        if min(self.disabled_projects, self.deployments, self.output_bytes) < 0:
            raise ValueError("a number of projects, deployments or bytes cannot be negative")
        if min(self.history, self.churn, self.auth_delay, self.delay_per_deployment, self.bytes_per_second) < 0:
            raise ValueError("a duration or a rate cannot be negative")
        if self.output_style not in STYLES:
            raise ValueError(f"an output style is one of {', '.join(STYLES)}")
        if not 0 <= self.faults <= 1:
            raise ValueError("faults is a share between 0 and 1")
