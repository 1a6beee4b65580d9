"""A real Keystone and a real Heat on loopback ports, on sqlite, with nothing around them."""

import base64
import json
import os
import secrets
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from tests.programs import newer
from tests.programs.available import NEWEST, OLDEST, find
from tests.programs.cloud import Cloud
from tests.programs.process import Process, free_port

PYTHON = "/usr/bin/python3"  # Debian's programs need Debian's Python, whatever other one comes first on PATH

KEYSTONE_CONF = """\
[DEFAULT]
use_stderr = true
[database]
connection = sqlite:///{folder}/keystone.db
[fernet_tokens]
key_repository = {folder}/fernet
[fernet_receipts]
key_repository = {folder}/fernet
[credential]
key_repository = {folder}/credential
[identity]
password_hash_rounds = 4
[cache]
backend = dogpile.cache.memory
"""

HEAT_CONF = """\
[DEFAULT]
transport_url = fake:/
num_engine_workers = 1
region_name_for_services = RegionOne
stack_user_domain_name = heat
stack_domain_admin = heat_domain_admin
stack_domain_admin_password = {password}
default_log_levels = heat.engine.environment=WARNING
[database]
connection = sqlite:///{folder}/heat.db
[heat_all]
enabled_services = engine,api
[heat_api]
bind_host = 127.0.0.1
bind_port = {heat_port}
# Any other number forks, and no reply ever comes over the fake transport.
workers = 1
[cache]
enabled = false
[paste_deploy]
api_paste_config = /etc/heat/api-paste.ini
[keystone_authtoken]
auth_type = password
auth_url = {auth_url}
www_authenticate_uri = {auth_url}
username = heat
password = {password}
user_domain_id = default
project_name = service
project_domain_id = default
# A token that was revoked is refused at once, not five minutes later.
token_cache_time = -1
[trustee]
auth_type = password
auth_url = {auth_url}
username = heat
password = {password}
user_domain_id = default
[clients_keystone]
auth_uri = {auth_url}
"""


HOST = "127.0.0.1"
LAUNCHER = Path(__file__).with_name("openstack_newest.py")
MOUNTED = Path("/srv")
"""Where the programs of the newest release, which see nothing of the machine but their folder, have ours."""


class OpenStack(Cloud):
    """A Keystone and a Heat of one release, from entering the context until leaving it."""

    def __init__(self, release: str = OLDEST) -> None:
        self.release = release
        find("openstack", release)
        self._root = newer.folder("openstack") if release == NEWEST else None
        self._keystone_port = free_port()
        self._heat_port = free_port()
        self._stack = ExitStack()
        super().__init__(f"http://{HOST}:{self._keystone_port}/v3", secrets.token_hex(8))

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self.close)
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="openstack-")))
            self._configure()
            self._create_databases()
            self.keystone = stack.enter_context(self._serve_keystone())
            self.heat = stack.enter_context(self._serve_heat())
            self.keystone.ready(self.auth_url)
            self._create_services()
            self.heat.ready(f"http://{HOST}:{self._heat_port}/")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    # --- start

    def _seen(self, name: str = "") -> str:
        """The path of our folder, or of a file in it, as the programs have it."""
        return str((self.folder if self._root is None else MOUNTED) / name)

    def _run(self, name: str, *command: str, **environment: str) -> Process:
        """Starts a Python program of the release."""
        python = [PYTHON, *command]
        if self._root is not None:
            python = newer.inside(self._root, *python, mounts=[(self.folder, str(MOUNTED))])
        return Process(name, python, self.folder, **environment)

    def _configure(self) -> None:
        self._service_password = secrets.token_hex(8)
        values = {
            "folder": self._seen(),
            "auth_url": self.auth_url,
            "heat_port": self._heat_port,
            "password": self._service_password,
        }
        (self.folder / "keystone.conf").write_text(KEYSTONE_CONF.format(**values))
        (self.folder / "heat.conf").write_text(HEAT_CONF.format(**values))
        shutil.copy(LAUNCHER, self.folder)
        for repository in ("fernet", "credential"):
            # What `keystone-manage fernet_setup` and `credential_setup` do, each of which takes seconds to start.
            (self.folder / repository).mkdir(mode=0o700)
            for number in ("0", "1"):
                key = self.folder / repository / number
                key.write_bytes(base64.urlsafe_b64encode(os.urandom(32)))
                key.chmod(0o600)

    def _create_databases(self) -> None:
        keystone = ("/usr/bin/keystone-manage", "--config-file", self._seen("keystone.conf"))
        heat = ("/usr/bin/heat-manage", "--config-file", self._seen("heat.conf"))
        with (
            self._run("heat-db-sync", *heat, "db_sync") as heat_sync,
            self._run("keystone-db-sync", *keystone, "db_sync") as keystone_sync,
        ):
            keystone_sync.wait()
            # Heat checks tokens at the internal endpoint.
            urls = (item for kind in ("public", "internal") for item in (f"--bootstrap-{kind}-url", self.auth_url))
            bootstrap = (*keystone, "bootstrap", "--bootstrap-region-id", "RegionOne", *urls)
            with self._run(
                "keystone-bootstrap", *bootstrap, OS_BOOTSTRAP_PASSWORD=self.admin_password
            ) as bootstrapping:
                bootstrapping.wait()
            heat_sync.wait()
        for database in ("keystone.db", "heat.db"):
            # Without it a reader keeps the writer out: "database is locked".
            with closing(sqlite3.connect(self.folder / database)) as connection:
                connection.execute("pragma journal_mode=wal")

    def _serve_keystone(self) -> Process:
        port = str(self._keystone_port)
        command = ["/usr/bin/keystone-wsgi-public", "--host", HOST, "--port", port]
        if self.release == NEWEST:
            command = [self._seen(LAUNCHER.name), "keystone", HOST, port]
        return self._run("keystone", *command, OS_KEYSTONE_CONFIG_FILES=self._seen("keystone.conf"))

    def _serve_heat(self) -> Process:
        config = self._seen("heat.conf")
        command = ["/usr/bin/heat-all", "--config-file", config]
        if self.release == NEWEST:
            command = [self._seen(LAUNCHER.name), "heat", HOST, str(self._heat_port), config]
        heat = self._run("heat", *command)
        heat.patience = 1.0  # it waits for its clients, who wait for nothing
        return heat

    def _create_services(self) -> None:
        """What an installation of Heat leaves in Keystone: its user, its domain for stack users, its endpoint."""
        user = self.create_user("heat", self._service_password)
        self.grant(user, self.create_project("service"), "admin")
        domain = self._identity("POST", "/domains", json={"domain": {"name": "heat"}})["domain"]["id"]
        admin = self.create_user("heat_domain_admin", self._service_password, domain=domain)
        self._identity("PUT", f"/domains/{domain}/users/{admin}/roles/{self._role('admin')}")
        service = {"name": "heat", "type": "orchestration"}
        service_id = self._identity("POST", "/services", json={"service": service})["service"]["id"]
        endpoint = {
            "service_id": service_id,
            "interface": "public",
            "region_id": "RegionOne",
            "url": f"http://{HOST}:{self._heat_port}/v1/$(project_id)s",
        }
        self._identity("POST", "/endpoints", json={"endpoint": endpoint})
        self._forget_tokens()  # the catalog they were issued with has no Heat yet

    # --- more deployments than the REST API takes in a test's time

    def insert_deployments(
        self,
        project: str,
        count: int,
        *,
        servers: int | None = None,
        output_bytes: int = 1500,
        row: Callable[[int], Mapping[str, Any]] = lambda number: {},
    ) -> list[str]:
        """Writes deployments straight into Heat's database; their ids.

        They are finished CREATEs on `servers` servers (ten each where none is said) with that much stdout; `row` may
        name other values for the n-th: server_id, action, status, status_reason, input_values, output_values,
        creation_time and updated_time (datetimes, None for never), config_name, stack_user_project_id.
        """
        now = datetime.now(UTC).replace(microsecond=0)
        server_ids = [str(uuid4()) for _ in range(servers or max(1, count // 10))]
        line = "deployed a line of output that nobody reads\n"
        stdout = (line * (output_bytes // len(line) + 1))[:output_bytes]
        configs: dict[str, str] = {}
        deployments = []
        for number in range(count):
            fields: dict[str, Any] = {
                "server_id": server_ids[number % len(server_ids)],
                "action": "CREATE",
                "status": "COMPLETE",
                "status_reason": "Outputs received",
                "input_values": {},
                "output_values": {"deploy_stdout": stdout, "deploy_stderr": "", "deploy_status_code": 0},
                "creation_time": now - timedelta(minutes=10),
                "updated_time": now - timedelta(minutes=9),
                "config_name": "bulk",
                "stack_user_project_id": None,
                **row(number),
            }
            deployments.append(
                (
                    str(uuid4()),
                    configs.setdefault(fields["config_name"], str(uuid4())),
                    project,
                    *(fields[name] for name in ("server_id", "action", "status", "status_reason")),
                    *(json.dumps(fields[name]) for name in ("input_values", "output_values")),
                    *(_sqlite_time(fields[name]) for name in ("creation_time", "updated_time")),
                    fields["stack_user_project_id"],
                )
            )
        body = json.dumps({"config": "#!/bin/sh\n", "inputs": [], "outputs": [], "options": {}})
        with self._writing, closing(sqlite3.connect(self.folder / "heat.db", timeout=30)) as connection, connection:
            connection.executemany(
                'insert into software_config (id, name, "group", config, tenant, created_at) values (?, ?, ?, ?, ?, ?)',
                [(id_, name, "script", body, project, _sqlite_time(now)) for name, id_ in configs.items()],
            )
            connection.executemany(
                "insert into software_deployment (id, config_id, tenant, server_id, action, status, status_reason, "
                "input_values, output_values, created_at, updated_at, stack_user_project_id) "
                "values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                deployments,
            )
        return [str(deployment[0]) for deployment in deployments]

    def wipe(self, project: str) -> None:
        """Takes all deployments and configs of a project out of Heat's database."""
        with self._writing, closing(sqlite3.connect(self.folder / "heat.db", timeout=30)) as connection, connection:
            connection.execute("delete from software_deployment where tenant = ?", (project,))
            connection.execute("delete from software_config where tenant = ?", (project,))


def _sqlite_time(moment: datetime | None) -> str | None:
    """A time as SQLAlchemy writes it into sqlite."""
    return None if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
