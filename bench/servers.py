"""What `servers.ids` spares a cloud: two servers of a large project asked for by themselves, and the whole listing.

    python -m bench.servers                # a simulated cloud that takes its time as a real Heat does
    python -m bench.servers --real         # a real Keystone and Heat, where Debian's packages are installed

refreshes the project once each way and prints the bytes that came and the time that the refresh took. Exit status 1
where the two ways show different numbers for the servers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from bench.fleet import EXPORTER, sums
from exporter.simulator import Plan, Simulator, build

OF_SERVERS = re.compile(r'heat_server_software_deployments\{.*server_id="([^"]*)".*\} (\S+)')
LISTING_SPEED = 0.000176
"""Seconds for which a real Heat 19 prepares each deployment of a listing: 50,000 took it 8.8 s."""
OUTPUT_BYTES = 1500
"""So that a deployment is some 2 KB, as those of the real one."""


def refresh(folder: Path, clouds_yaml: str, servers: dict[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """One refresh by `once`: the sum of each family, and the deployments of each server."""
    (folder / "clouds.yaml").write_text(clouds_yaml)
    cloud = {"name": "bench", "cloud": "bench", "projects": "current", "servers": servers}
    settings = {"refresh": {"timeout": "10m", "silence": "10m"}, "names": False, "clouds": [cloud]}
    (folder / "config.yaml").write_text(json.dumps(settings))
    done = subprocess.run(
        [*EXPORTER, "once", f"--config.file={folder / 'config.yaml'}", "--log.level=warning"],
        env=os.environ | {"OS_CLIENT_CONFIG_FILE": str(folder / "clouds.yaml")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    found: Counter[str] = Counter()
    for server, value in OF_SERVERS.findall(done.stdout):
        found[server] += float(value)
    return sums(done.stdout), dict(found)


def compare(clouds_yaml: str, servers: int) -> int:
    """Refresh both ways, and print a table; 1 where they disagree."""
    with tempfile.TemporaryDirectory(prefix="servers-") as folder:
        whole, all_servers = refresh(Path(folder), clouds_yaml, {})
        ids = sorted(all_servers)[:servers]
        few, these = refresh(Path(folder), clouds_yaml, {"ids": ids})
    print(f"| | whole listing | `servers.ids` with {servers} of {len(all_servers):,} servers | of it |")
    print("| --- | --- | --- | --- |")
    for title, family, unit in (
        ("deployments", "heat_software_deployments", ""),
        ("bytes", "heat_refresh_response_bytes", ""),
        ("time of the refresh", "heat_last_refresh_duration_seconds", " s"),
    ):
        form = ",.3f" if unit else ",.0f"
        part = few[family] / whole[family]
        print(f"| {title} | {whole[family]:{form}}{unit} | {few[family]:{form}}{unit} | {part:.3%} |")
    right = these == {server: all_servers[server] for server in ids}
    print("\nboth ways show the same of these servers" if right else f"\ndifferent numbers: {these}")
    return 0 if right else 1


async def simulated(options: argparse.Namespace) -> int:
    """Compare on a simulated cloud."""
    plan = Plan(
        projects=1,
        disabled_projects=0,
        servers=options.deployments // 10,
        deployments=options.deployments,
        output_bytes=OUTPUT_BYTES,
        churn=0,
        delay_per_deployment=LISTING_SPEED,
    )
    async with Simulator(build(plan)) as simulator:
        clouds_yaml = simulator.clouds_yaml(clouds=["bench"])
        return await asyncio.to_thread(compare, clouds_yaml, options.servers)


def real(options: argparse.Namespace) -> int:
    """Compare on a real Keystone and Heat."""
    from tests.programs.openstack import OpenStack

    with OpenStack() as cloud:
        project = cloud.create_project("bench")
        user = cloud.create_user("bench", "correct horse")
        cloud.grant(user, project)
        cloud.insert_deployments(project, options.deployments, output_bytes=OUTPUT_BYTES)
        return compare(cloud.clouds_yaml(user, "correct horse", project, name="bench"), options.servers)


def main() -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deployments", type=int, default=50_000, help="of the project")
    parser.add_argument("--servers", type=int, default=2, help="to ask for")
    parser.add_argument("--real", action="store_true", help="on a real Heat")
    options = parser.parse_args()
    sys.exit(real(options) if options.real else asyncio.run(simulated(options)))


if __name__ == "__main__":
    main()
