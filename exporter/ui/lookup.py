"""Which project an address means: `cloud` and `project`, by id, or by name where that is unique."""

from __future__ import annotations

from collections.abc import Mapping

from exporter.collector.collector import Collector
from exporter.collector.project_poller import ProjectPoller
from exporter.common.errors import ProjectQueryError


def sought(fleet: Collector, path: str, query: Mapping[str, str]) -> ProjectPoller:
    """The project that an address of this path means; ProjectQueryError where there is no such one."""
    cloud_name, wanted = query.get("cloud"), query.get("project")
    if not cloud_name or not wanted:
        raise ProjectQueryError(f"Expected {path}?cloud=…&project=…", status=400)
    cloud = fleet.clouds.get(cloud_name)
    projects = cloud.projects if cloud else {}
    if (watch := projects.get(wanted)) is not None:
        return watch
    found = [watch for watch in projects.values() if watch.state.name == wanted]
    if not found:
        raise ProjectQueryError("No such project is watched", status=404)
    if len(found) > 1:
        raise ProjectQueryError("Several projects have this name: give the id", status=400)
    return found[0]
