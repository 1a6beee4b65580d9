"""A look-alike of Keystone, Heat and (its names of servers) Nova on loopback: the demo's cloud, and the tests'."""

from exporter.simulator.build import build
from exporter.simulator.churn import Churn
from exporter.simulator.plan import Plan
from exporter.simulator.server import Asked, Requests, Simulator
from exporter.simulator.world import Config, Deployment, Project, Refused, Token, User, World

__all__ = [
    "Asked", "Churn", "Config", "Deployment", "Plan", "Project", "Refused", "Requests", "Simulator", "Token", "User",
    "World", "build",
]  # fmt: skip
