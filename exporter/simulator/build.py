"""Builds the world of a plan, with a history as if it had been running for weeks."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from exporter.simulator.churn import Churn
from exporter.simulator.plan import Plan
from exporter.simulator.world import World

PROJECTS = ("web-frontend", "billing", "data-pipeline", "identity-platform", "search", "mobile-api", "analytics")
DISABLED = ("legacy-crm", "old-intranet")
PASSWORD = "secret"
"""Everybody's: the simulator guards nothing."""


def build(plan: Plan | None = None, *, now: Callable[[], float] = time.time) -> World:
    """Return a world with the plan's projects, servers and deployments.

    `admin` has the role admin everywhere, `monitor` is a reader in every project but `admin`, with one application
    credential named `monitor-<project>` in each; the password of both is `secret`.
    """
    world = World(plan, now=now)
    plan = world.plan
    chance = random.Random(f"{plan.seed}/build")
    admin = world.add_user("admin", PASSWORD)
    monitor = world.add_user("monitor", PASSWORD)
    home = world.add_project("admin")
    world.grant(admin.id, home.id, "admin")
    for number in range(plan.projects + plan.disabled_projects):
        project = world.add_project(_name(number, plan.projects), enabled=number < plan.projects)
        world.grant(admin.id, project.id, "admin")
        world.grant(monitor.id, project.id, "reader")
        world.add_application_credential(monitor.id, project.id, f"monitor-{project.name}")
    projects = [project.id for project in world.projects.values() if project.enabled and project is not home]
    weights = [1 / (number + 1) ** 0.5 for number in range(len(projects))]
    for number in range(plan.servers):
        world.add_server(projects[number] if number < len(projects) else chance.choices(projects, weights)[0])
    _history(world, chance)
    return world


def _name(number: int, enabled: int) -> str:
    names = PROJECTS if number < enabled else DISABLED
    index = number if number < enabled else number - enabled
    return names[index] if index < len(names) else f"{'project' if number < enabled else 'retired'}-{index:04}"


def _history(world: World, chance: random.Random) -> None:
    """Fill in what happened before: most of it long ago and well, some not, some not yet over."""
    churn = Churn(world)
    now = world.now()
    times = sorted(now - chance.uniform(60, max(61.0, world.plan.history)) for _ in range(world.plan.deployments))
    for created in times:
        deployment = churn.add(created=created)
        ended = min(now - 1, created + chance.lognormvariate(2.7, 0.8))
        fate = chance.random()
        if fate < 0.008:
            continue  # never reported: IN_PROGRESS since its creation, without updated_time or outputs
        churn.finish(deployment, at=ended, failed=fate > 0.95)
        if chance.random() < 0.4:
            action = chance.choices(("UPDATE", "SUSPEND", "RESUME", "DELETE"), (80, 8, 9, 3))[0]
            changed = chance.uniform(ended, now)
            world.update(deployment.id, action=action, updated=changed)
            if action == "DELETE":  # the others are gone
                churn.finish(deployment, at=changed, failed=True)
            elif chance.random() < 0.02:
                # Not over yet, and some about to count as stuck: minutes or an hour old.
                began = min(now, max(created, now - chance.choice((20.0, 560.0, 3560.0, 90000.0))))
                world.update(deployment.id, status="IN_PROGRESS", status_reason="Deploy data available", updated=began)
