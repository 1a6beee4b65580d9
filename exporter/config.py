"""The configuration file: its keys, their types and defaults, and clear errors about what is wrong with one.

Everything is checked before anything starts. A message names the file, the key's path and what was expected.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from exporter.errors import ConfigError
from exporter.families import FAMILIES
from exporter.units import Duration, Size, format_duration


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"expected a regular expression: {error}") from None
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]
PositiveDuration = Annotated[Duration, Field(gt=0)]
Name = Annotated[str, Field(min_length=1)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Refresh(_Model):
    """How often and how patiently each project is asked."""

    interval: PositiveDuration = 60.0
    """One refresh of a project per interval."""
    timeout: PositiveDuration = 45.0
    """For one project's refresh, all of it."""
    silence: PositiveDuration = 45.0
    """The longest wait between two reads, the first byte included (Heat is silent until its list is ready)."""
    stale_after: PositiveDuration = 300.0
    """Older data is withdrawn from /metrics."""
    share: Annotated[float, Field(gt=0, le=1, strict=False)] = 0.25
    """Of the time a project's listing may keep its cloud busy: one that takes 30 s is asked for every 2 minutes."""
    slow_after: PositiveDuration = 5.0
    """A project that took longer last time is a slow one."""
    discovery: PositiveDuration = 600.0
    """How often projects are looked up."""


class CloudLimits(_Model):
    """What may be asked of one cloud and shown of it."""

    requests_per_second: Annotated[float, Field(gt=0, strict=False)] = 10.0
    """Against one cloud, authentication included."""
    response_bytes: Annotated[Size, Field(gt=0)] = 2 * 1024**3
    """One listing's size at most, decompressed."""
    servers: Annotated[int, Field(ge=0)] = 10000
    """Servers with series of their own per project, troubled ones first; 0: none."""


class Limits(CloudLimits):
    """The same, and what holds for all clouds together."""

    concurrency: Annotated[int, Field(ge=1)] = 8
    """Refreshes under way at once, shared out evenly among clouds; slow projects hold at most half of a cloud's."""


class Thresholds(_Model):
    """Where trouble begins."""

    stuck_after: PositiveDuration = 3600.0
    """IN_PROGRESS and unchanged (updated_time, else creation_time) for this long."""


_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0


def _ascending(bounds: tuple[Any, ...]) -> tuple[Any, ...]:
    if list(bounds) != sorted(set(bounds)) or not bounds:
        raise ValueError("expected upper bounds in rising order, each once")
    return bounds


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class Buckets(_Model):
    """Upper bounds of the histograms; +Inf is implied."""

    age: Annotated[tuple[PositiveDuration, ...], AfterValidator(_ascending)] = (
        _MINUTE, 5 * _MINUTE, 15 * _MINUTE, 30 * _MINUTE, _HOUR, 6 * _HOUR, _DAY, 7 * _DAY, 30 * _DAY, 365 * _DAY,
    )  # fmt: skip
    """For age and state_age; thresholds.stuck_after is always one of them."""
    deploy_status_code: Annotated[tuple[int, ...], AfterValidator(_ascending)] = (
        0, 1, 2, 125, 126, 127, 128, 137, 143, 255,
    )  # fmt: skip

    _lists = field_validator("age", "deploy_status_code", mode="before")(_tuple)


class Metrics(_Model):
    """Which families are published, by fully anchored regular expressions; what is left out costs nothing."""

    include: tuple[Pattern, ...] = ()
    exclude: tuple[Pattern, ...] = ()

    _lists = field_validator("include", "exclude", mode="before")(_tuple)

    @model_validator(mode="after")
    def _each_selects(self) -> Self:
        names = [family.name for family in FAMILIES]
        for pattern in (*self.include, *self.exclude):
            if not any(re.fullmatch(pattern, name) for name in names):
                raise ValueError(f"expected the name of a metric family, or a pattern of some: {pattern!r} is of none")
        return self


class Servers(_Model):
    """Which servers' deployments count, by fully anchored regular expressions on server_id; exclude wins."""

    include: tuple[Pattern, ...] = ()
    exclude: tuple[Pattern, ...] = ()

    _lists = field_validator("include", "exclude", mode="before")(_tuple)


class NamedProject(_Model):
    """A project by its name in a domain (the domain's name or id)."""

    name: Name
    domain: Name


Projects = Literal["discover", "current"] | tuple[Name | NamedProject, ...]


class Cloud(_Model):
    """One cloud to watch."""

    name: Name = ""
    """The label `cloud`; the clouds.yaml entry's name, or `envvars` for the OS_* environment, by default."""
    cloud: Name | None = None
    """The clouds.yaml entry; absent: the OS_* environment."""
    projects: Projects = "discover"
    """`discover`, `current`, or a list of ids, names or {name: …, domain: …}."""
    servers: Servers = Servers()
    """Absent: all."""
    refresh: Refresh = Refresh()
    """What differs for this cloud."""
    limits: CloudLimits = CloudLimits()
    """What differs for this cloud."""

    @field_validator("projects", mode="before")
    @classmethod
    def _project_list(cls, value: Any) -> Any:
        if isinstance(value, list):
            if not value:
                raise ValueError("expected discover, current, or a list of at least one project")
            return tuple(value)
        if value not in ("discover", "current"):
            raise ValueError(f"expected discover, current, or a list of projects, not {value!r}")
        return value

    @model_validator(mode="after")
    def _default_name(self) -> Self:
        if not self.name:
            object.__setattr__(self, "name", self.cloud or os.environ.get("OS_CLOUD") or "envvars")
        return self


class Config(_Model):
    """The whole configuration file."""

    refresh: Refresh = Refresh()
    limits: Limits = Limits()
    thresholds: Thresholds = Thresholds()
    buckets: Buckets = Buckets()
    metrics: Metrics = Metrics()
    clouds: Annotated[tuple[Cloud, ...], Field(min_length=1)] = Field(default_factory=lambda: (Cloud(),))

    _lists = field_validator("clouds", mode="before")(_tuple)

    @field_validator("clouds")
    @classmethod
    def _unique(cls, clouds: tuple[Cloud, ...]) -> tuple[Cloud, ...]:
        names = [cloud.name for cloud in clouds]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"expected a different name for each cloud: {twice!r} is there twice")
        return clouds

    @model_validator(mode="after")
    def _effective(self) -> Self:
        """Fill in each cloud what it does not say itself, and check what only makes sense together."""
        clouds = tuple(
            cloud.model_copy(
                update={"refresh": _merged(self.refresh, cloud.refresh), "limits": _merged(self.limits, cloud.limits)}
            )
            for cloud in self.clouds
        )
        object.__setattr__(self, "clouds", clouds)
        for cloud in clouds:
            if cloud.refresh.stale_after < cloud.refresh.interval:
                raise ValueError(
                    f"refresh.stale_after ({format_duration(cloud.refresh.stale_after)}) of cloud {cloud.name!r}:"
                    f" expected at least refresh.interval ({format_duration(cloud.refresh.interval)})"
                )
        return self

    @property
    def age_bounds(self) -> tuple[float, ...]:
        """The bounds of the age histograms in seconds."""
        return tuple(sorted({*self.buckets.age, self.thresholds.stuck_after}))

    def digest(self) -> float:
        """A number that is the same for the same configuration (48 bits, which a double holds exactly)."""
        return float(int.from_bytes(hashlib.sha256(self.model_dump_json().encode()).digest()[:6], "big"))


def _merged(base: CloudLimits | Refresh, own: CloudLimits | Refresh) -> CloudLimits | Refresh:
    values = {key: getattr(base, key) for key in type(own).model_fields}
    values |= {key: getattr(own, key) for key in own.model_fields_set}
    return type(own).model_construct(own.model_fields_set, **values)


class _Loader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error instead of a silent loss of the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key!r} stands twice", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


def load(path: str | Path | None) -> Config:
    """The configuration in a file, or the default one without a file; ConfigError names what is wrong."""
    if path is None:
        return parse("", source="environment")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from None
    return parse(text, source=str(path))


def parse(text: str, *, source: str) -> Config:
    """The configuration in a YAML text; `source` names it in errors."""
    try:
        content = yaml.load(text, _Loader)  # noqa: S506 - the loader is a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{source}: {where}not YAML: {getattr(error, 'problem', None) or error}") from None
    except RecursionError:
        raise ConfigError(f"{source}: too deeply nested") from None
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigError(f"{source}: expected keys such as refresh and clouds, not {type(content).__name__}")
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{source}: {line}" for line in _explain(error))) from None


_PREFIX: Final = "Value error, "


def _explain(error: ValidationError) -> list[str]:
    """One line for each mistake: the key's path and what was expected."""
    lines = []
    for each in error.errors(include_url=False):
        parts = [part for part in each["loc"] if not (isinstance(part, str) and _is_branch(part))]
        path = ""
        for part in parts:
            path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
        if each["type"] == "extra_forbidden":
            message = "unknown key"
        else:
            message = each["msg"].removeprefix(_PREFIX)
            message = message[0].lower() + message[1:]
            if each["type"] != "value_error":
                message = message.replace("input should be", "expected", 1) + f", not {each['input']!r:.100}"
        lines.append(f"{path}: {message}" if path else message)
    return list(dict.fromkeys(lines))


def _is_branch(part: str) -> bool:
    """Whether a part of pydantic's location names a branch of a union instead of a key."""
    return "[" in part or part in ("NamedProject", "constrained-str", "str") or part.startswith(("literal", "tuple"))
