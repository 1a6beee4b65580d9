"""The life of a simulated cloud: deployments start, finish, fail, get stuck, are updated and deleted."""

from __future__ import annotations

import heapq
import random
from itertools import accumulate

from exporter.simulator.outputs import inputs, output
from exporter.simulator.world import Deployment, World

CONFIGS: tuple[tuple[str | None, str | None], ...] = (
    ("install-agent", "script"),
    ("configure-nginx", "ansible"),
    ("rotate-certificates", "script"),
    ("mount-volumes", "script"),
    ("apply-hardening", "ansible"),
    ("join-cluster", "script"),
    ("register-monitoring", "puppet"),
    ("deploy-application", "docker-compose"),
    ("restart-services", "script"),
    ("sync-users", "salt"),
    (None, None),
)
CONFIG_WEIGHTS = tuple(accumulate((20, 14, 12, 10, 10, 9, 8, 8, 6, 5, 1)))
FAILURES = (1, 2, 100, 124, 126, 127, 137, 143, 255)
FAILURE_WEIGHTS = (45, 12, 4, 4, 5, 12, 9, 4, 5)
TROUBLE = {
    1: "install-agent: the package index is not reachable, giving up after 5 attempts",
    2: "usage: configure [--force] FILE\nconfigure: error: the following arguments are required: FILE",
    100: "E: Unable to locate package telegraf",
    124: "timed out after 600 s",
    126: "/bin/sh: 1: ./setup: Permission denied",
    127: "/bin/sh: 1: jq: not found",
    137: "Killed",
    143: "Terminated",
    255: "ssh: connect to host 10.0.0.12 port 22: Connection timed out",
}
STARTED = "Deploy data available"
STUCK = 0.002
"""The share of runs that hang for hours; each stays long, so that a few of a hundred are always there."""


class Churn:
    """Makes things happen in a world, the same things for the same seed and steps.

    Its own clock is the sum of its steps; the world's only stamps what happens.
    """

    def __init__(self, world: World) -> None:
        """Promise: nothing happens before the first step; runs that are IN_PROGRESS now will end some day."""
        self.world = world
        self.random = random.Random(f"{world.plan.seed}/churn")
        self._clock = 0.0
        self._due = 0.0
        self._running: set[str] = set()
        self._ends: list[tuple[float, str]] = []
        self._known = list(world.deployments)
        self._places = [(project_id, server) for project_id, servers in world.servers.items() for server in servers]
        # A few texts serve a whole world, so that a big one costs little memory. They have a random generator of their
        # own, so that the same things happen whatever their style and size.
        plan, chance = world.plan, random.Random(f"{world.plan.seed}/outputs")
        sizes = [int(plan.output_bytes * chance.uniform(0.5, 1.5)) for _ in range(64)]
        self._texts = [output(plan.output_style, size, chance) for size in sizes]
        self._inputs = [inputs(plan.output_style, size, chance) for size in sizes]
        self._shared: dict[tuple[str, str | None], str] = {}
        now = world.now()
        for deployment in world.deployments.values():
            if deployment.status == "IN_PROGRESS":
                # Ends soon if it started lately; the others have been hanging and go on with it for a while.
                waited = now - (deployment.updated or deployment.created)
                self._run(deployment, self.random.uniform(5, 60) if waited < 300 else self.random.uniform(300, 14400))

    def step(self, seconds: float) -> None:
        """Let time pass: as many actions start as the plan's churn says, and what was to end ends."""
        self._clock += seconds
        # First the starts, so that what ends now is seen to have ended before it starts again.
        self._due += seconds * self.world.plan.churn
        while self._due >= 1:
            self._due -= 1
            self.start()
        while self._ends and self._ends[0][0] <= self._clock:
            _, deployment_id = heapq.heappop(self._ends)
            deployment = self.world.deployments.get(deployment_id)
            # Somebody may have ended or removed it over the API in the meantime.
            if deployment is not None and deployment_id in self._running:
                self._running.discard(deployment_id)
                if deployment.status == "IN_PROGRESS":
                    self.finish(deployment)
                elif deployment.action == "DELETE":
                    self.world.remove(deployment_id)

    def start(self) -> None:
        """Start one action: a new deployment, or something else for one that rests."""
        wanted = self.world.plan.deployments
        size = len(self.world.deployments)
        weights = (30 if size < 1.05 * wanted else 5, 45, 12 if size > 0.95 * wanted else 2, 6, 7)
        action = self.random.choices(("CREATE", "UPDATE", "DELETE", "SUSPEND", "RESUME"), weights)[0]
        deployment = None if action == "CREATE" else self._resting()
        if deployment is None:
            self.create()
            return
        self.world.update(
            deployment.id,
            action=action,
            status="IN_PROGRESS",
            status_reason=STARTED,
            config_id=self._derive(deployment),
        )
        self._run(deployment)

    def _resting(self) -> Deployment | None:
        """Return a deployment that nothing is being done to; forget on the way those that are gone."""
        for _ in range(20):
            if not self._known:
                return None
            index = self.random.randrange(len(self._known))
            deployment = self.world.deployments.get(self._known[index])
            if deployment is None:
                self._known[index] = self._known[-1]
                self._known.pop()
            elif deployment.id not in self._running:
                return deployment
        return None

    def create(self) -> Deployment:
        """Make a deployment on some server and let it run."""
        deployment = self.add()
        self._known.append(deployment.id)
        self._run(deployment)
        return deployment

    def add(self, *, created: float | None = None) -> Deployment:
        """Make a deployment on some server, as a stack does: with a config of its own; or as somebody by hand."""
        project_id, server_id = self.random.choice(self._places)
        name, group = self.random.choices(CONFIGS, cum_weights=CONFIG_WEIGHTS)[0]
        derived = self.random.random() < 0.85
        shared = None if derived else self._shared.get((project_id, name))
        config = self.world.configs.get(shared or "")
        if config is None:
            config = self.world.add_config(project_id, name, group, created=created, derived=derived)
            if not derived:
                self._shared[project_id, name] = config.id
        simple = {} if derived else self.random.choice((None, {"target": server_id}))
        return self.world.add_deployment(
            project_id,
            server_id,
            config.id,
            status_reason=STARTED if derived else "None",
            created=created,
            input_values=self._inputs[len(self.world.deployments) % len(self._inputs)] or simple,
        )

    def _derive(self, deployment: Deployment) -> str:
        """Return the id of a new derived config of the same name, in place of the one for the action before."""
        old = self.world.configs.get(deployment.config_id)
        if old is None or not old.derived:
            return deployment.config_id
        del self.world.configs[old.id]
        return self.world.add_config(deployment.project_id, old.name, old.group, derived=True).id

    def _run(self, deployment: Deployment, seconds: float | None = None) -> None:
        if seconds is None:
            hangs = self.random.random() < STUCK
            seconds = self.random.uniform(5000, 15000) if hangs else min(900.0, self.random.lognormvariate(2.7, 0.8))
        self._running.add(deployment.id)
        heapq.heappush(self._ends, (self._clock + seconds, deployment.id))

    def finish(self, deployment: Deployment, *, at: float | None = None, failed: bool | None = None) -> None:
        """End a run, well or not; a deployment that was deleted well is gone a little later."""
        now = self.world.now() if at is None else at
        if failed is None:
            failed = self.random.random() < 0.1
        if failed:
            reason, outputs = self._failure()
            outputs = outputs or deployment.output_values
            self.world.update(deployment.id, status="FAILED", status_reason=reason, updated=now, output_values=outputs)
            return
        code: object = self.random.choices((0, "0", None), (93, 5, 2))[0]
        outputs = {"deploy_stdout": self.random.choice(self._texts), "deploy_stderr": "", "deploy_status_code": code}
        if self.random.random() < 0.1:
            outputs["result"] = f"done on {deployment.server_id}"
        self.world.update(
            deployment.id, status="COMPLETE", status_reason="Outputs received", updated=now, output_values=outputs
        )
        if deployment.action == "DELETE":
            self._run(deployment, 10)

    def _failure(self) -> tuple[str, dict[str, object]]:
        """Return a reason and the outputs of a run that failed; none at all if its server never answered."""
        kind = self.random.choices(("code", "text", "stderr", "silent"), (77, 10, 8, 5))[0]
        if kind == "silent":
            return "Deployment cancelled.", {}
        code = self.random.choices(FAILURES, FAILURE_WEIGHTS)[0]
        stderr = TROUBLE[code]
        outputs: dict[str, object] = {"deploy_stdout": self.random.choice(self._texts), "deploy_stderr": stderr}
        if kind == "stderr":
            # An output that is declared an error makes a run fail whatever its exit code.
            return f"deploy_stderr : {stderr}", {**outputs, "deploy_status_code": 0}
        reason = f"deploy_status_code : Deployment exited with non-zero status code: {code}"
        return reason, {**outputs, "deploy_status_code": str(code) if kind == "text" else code}
