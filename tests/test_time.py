"""Which clock counts for what: ages go by the wall clock, staleness, pace and tokens by one that nothing sets."""

import time

from exporter.clock import Clock, since_boot
from tests import harness
from tests.harness import Cloud, Hands, page_of, watch_of

cloud = harness.cloud
pytestmark = harness.sdk_warning

DEPLOYMENTS = "heat_software_deployments"
AGES = "heat_software_deployment_age_seconds"
NOW = 1_700_000_000.0
"""2023-11-14T22:13:20Z"""
HOUR = 3600.0


# -- tokens


async def test_a_token_ends_while_the_machine_sleeps(cloud: Cloud):
    """A token's life goes by a clock that goes on in a suspended machine: an ended one is renewed, never tried."""
    hands = Hands()
    async with cloud.fleet(clock=hands.clock) as fleet:
        await fleet.once()
        cloud.requests.clear()
        hands.advance(HOUR)
        await watch_of(fleet).refresh()
        asked = [(each.path.rsplit("/", 1)[1], each.status) for each in cloud.requests]
        assert asked == [("tokens", 201), ("software_deployments", 200)]
        assert not page_of(fleet).select("heat_refresh_failures_total")


async def test_the_wall_clock_ends_no_token(cloud: Cloud):
    """However the wall clock is set, a token that is good is used."""
    hands = Hands()
    async with cloud.fleet(clock=hands.clock) as fleet:
        await fleet.once()
        for jump in (10 * HOUR, -30 * HOUR):
            hands.wall += jump
            await watch_of(fleet).refresh()
            assert watch_of(fleet).state.up
        assert cloud.authentications() == 2


def test_the_steady_clock_counts_suspension() -> None:
    """Where the system has a clock that goes on in suspension, that is the steady one."""
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= since_boot() <= time.clock_gettime(time.CLOCK_BOOTTIME)
    assert Clock().steady is since_boot
