"""What configs and servers are called, as far as it is known; and deployments counted by the name of their config.

A stack gives each action a config of its own, derived from the one that its template names, so the ids of configs say
nothing about what belongs together: their names do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from exporter.snapshot import ConfigName, ConfigRow, Snapshot

UNKNOWN: Final = ConfigName("", "")


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one project's configs and servers, by id. Asked for and not found is UNKNOWN, or ""."""

    configs: Mapping[str, ConfigName] = field(default_factory=dict)
    servers: Mapping[str, str] = field(default_factory=dict)
    asking: bool = True
    """Whether anybody will be asked for what is not known: if not, there is no use in keeping an id for that."""
    by_id: bool = False
    """Whether to count by the ids of all configs, so as to learn which are still in use."""

    def same_as(self, other: Names) -> bool:
        """Whether nothing was learnt or forgotten in between."""
        return self.configs is other.configs and self.servers is other.servers


NO_NAMES: Final = Names(asking=False)
"""Where nobody is asked."""


@dataclass(slots=True)
class ConfigTally:
    """Deployments counted by their config: by its name where that was known when they were, else by its id."""

    counts: Counter[tuple[ConfigName | str, str]] = field(default_factory=Counter)
    """By config and status (as its label)."""
    stuck: Counter[ConfigName | str] = field(default_factory=Counter)

    @property
    def ids(self) -> frozenset[str]:
        """The ids of the configs that were counted by them."""
        return frozenset(config for config, _ in self.counts if isinstance(config, str))

    def rows(self, names: Names, *, limit: int) -> tuple[tuple[ConfigRow, ...], int]:
        """The rows of as many configs as allowed, the most troubled first, and how many rows are left out."""
        counts: dict[ConfigName, Counter[str]] = {}
        trouble: Counter[ConfigName] = Counter()
        for (config, status), count in self.counts.items():
            name = _name(config, names)
            counts.setdefault(name, Counter())[status] += count
            if status == "FAILED":
                trouble[name] += count
        for config, count in self.stuck.items():
            trouble[_name(config, names)] += count
        order = sorted(counts, key=lambda name: (-trouble[name], name))
        shown = tuple(
            ConfigRow(*name, status, count) for name in order[:limit] for status, count in sorted(counts[name].items())
        )
        return shown, sum(len(counts[name]) for name in order[limit:])


def _name(config: ConfigName | str, names: Names) -> ConfigName:
    return names.configs.get(config, UNKNOWN) if isinstance(config, str) else config


def named(snapshot: Snapshot, tally: ConfigTally, names: Names, *, configs: int) -> Snapshot:
    """The snapshot with every name that is known; `configs` is how many of them may have rows."""
    rows, withheld = tally.rows(names, limit=configs) if configs else ((), 0)
    wanted = {row.config_id for row in snapshot.problems}
    shown = {row.server_id for row in snapshot.servers}
    return replace(
        snapshot,
        configs=rows,
        configs_withheld=withheld,
        config_names={each: name for each in wanted if (name := names.configs.get(each, UNKNOWN)) != UNKNOWN},
        server_names={each: called for each in shown if (called := names.servers.get(each))},
    )
