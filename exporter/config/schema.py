"""The configuration file: its keys, their types and defaults, and clear errors about what is wrong with one.

Everything is checked before anything starts. A message names the file, the key's path and what was expected.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from exporter.common.errors import ConfigError
from exporter.common.redaction import brief
from exporter.config.sharding import ordinal, owner
from exporter.config.units import Duration, Size, format_size


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"expected a regular expression: {error}") from None
    except (RecursionError, OverflowError):
        raise ValueError("expected a regular expression that is less deeply nested and repeats less") from None
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]
PositiveDuration = Annotated[Duration, Field(gt=0)]
Name = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=0, le=2**53)]  # what a double holds exactly, as all that reads numbers does


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


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
    share: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Of the time a project's listing may keep its cloud busy: one that takes 30 s is asked for every 2 minutes."""
    slow_after: PositiveDuration = 5.0
    """A project that took longer last time is a slow one."""
    discovery: PositiveDuration = 600.0
    """How often projects are looked up."""


class CloudLimits(_Model):
    """What may be asked of one cloud and shown of it."""

    requests_per_second: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10.0
    """Against one cloud, authentication and name look-ups included."""
    response_bytes: Annotated[Size, Field(gt=0)] = 2 * 1024**3
    """One listing's size at most, decompressed; with `servers.ids`, of all the listings of one refresh together."""
    servers: Count = 10000
    """Servers with series of their own per project, troubled ones first; 0: none."""
    configs: Count = 200
    """Config names per project, troubled ones first; 0: none."""
    problems: Count = 200
    """Rows of the problem family per project; failed and stuck are each sure of half; 0: none."""


class Limits(CloudLimits):
    """The same, and what holds for all clouds together."""

    series: Count = 500000
    """On the whole page: past it server, config and problem families are cut, biggest projects first; 0: no limit."""
    concurrency: Annotated[Count, Field(ge=1)] = 8
    """Refreshes under way at once, shared out evenly among clouds; slow projects hold at most half of a cloud's."""


class Shard(_Model):
    """Which part of the projects this exporter watches, where several share the work."""

    index: Annotated[int, Field(ge=0)] | Literal["auto"] = 0
    """This exporter's number, below `total`; `auto`: the number that ends the host name."""
    total: Annotated[Count, Field(ge=1)] = 1
    """How many exporters share the projects."""

    @field_validator("index", mode="before")
    @classmethod
    def _number_or_auto(cls, value: Any) -> Any:
        if value == "auto":
            return ordinal()
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"expected a number from 0, or auto, not {brief(value)}")
        return value

    @model_validator(mode="after")
    def _below_total(self) -> Self:
        if isinstance(self.index, int) and self.index >= self.total:
            raise ValueError(f"expected an index below total ({self.total}), not {brief(self.index)}")
        return self

    def owns(self, cloud: str, project_id: str) -> bool:
        """Whether a project is this exporter's."""
        return self.total == 1 or owner(cloud, project_id, self.total) == self.index


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


ExitCode = Annotated[int, Field(ge=-(2**53), le=2**53)]  # what a bucket's bound, a double, holds exactly


class Buckets(_Model):
    """Upper bounds of the histograms; +Inf is implied."""

    age: Annotated[tuple[PositiveDuration, ...], AfterValidator(_ascending)] = (
        _MINUTE, 5 * _MINUTE, 15 * _MINUTE, 30 * _MINUTE, _HOUR, 6 * _HOUR, _DAY, 7 * _DAY, 30 * _DAY, 365 * _DAY,
    )  # fmt: skip
    """For age and state_age; thresholds.stuck_after is always one of them."""
    duration: Annotated[tuple[PositiveDuration, ...], AfterValidator(_ascending)] = (
        5.0, 15.0, 30.0, _MINUTE, 2 * _MINUTE, 5 * _MINUTE, 10 * _MINUTE, 30 * _MINUTE, _HOUR, 2 * _HOUR,
    )  # fmt: skip
    """For how long deployments took."""
    deploy_status_code: Annotated[tuple[ExitCode, ...], AfterValidator(_ascending)] = (
        0, 1, 2, 125, 126, 127, 128, 137, 143, 255,
    )  # fmt: skip
    """For exit codes."""

    _lists = field_validator("age", "duration", "deploy_status_code", mode="before")(_tuple)


class Metrics(_Model):
    """Which families are published, by fully anchored regular expressions; what is left out costs nothing."""

    include: tuple[Pattern, ...] = ()
    """Names of families, fully anchored regular expressions; empty: all."""
    exclude: tuple[Pattern, ...] = ()
    """The same; exclude wins. What is left out costs nothing."""

    _lists = field_validator("include", "exclude", mode="before")(_tuple)

    @field_validator("include", "exclude")
    @classmethod
    def _each_selects(cls, patterns: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        families: Collection[str] | None = (info.context or {}).get("families")
        for pattern in patterns if families is not None else ():
            if not any(re.fullmatch(pattern, name) for name in families or ()):
                raise ValueError(
                    f"expected the name of a metric family, or a pattern of some: {brief(pattern)} is of none"
                )
        return patterns


ServerId = Annotated[str, Field(min_length=1)]  # an empty one is no filter at all to Heat, and brings every server's


class Servers(_Model):
    """Which servers' deployments count: a few by their ids, or those that patterns of ids leave."""

    ids: tuple[ServerId, ...] | None = None
    """Only these servers, each asked for by itself, never the whole listing. Not with `discover`, nor with patterns."""
    include: tuple[Pattern, ...] = ()
    """Server ids, fully anchored regular expressions; empty: all."""
    exclude: tuple[Pattern, ...] = ()
    """The same; exclude wins. A deployment that they leave out is counted nowhere."""

    _lists = field_validator("ids", "include", "exclude", mode="before")(_tuple)

    @field_validator("ids")
    @classmethod
    def _some_and_each_once(cls, ids: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if ids == ():
            raise ValueError("expected at least one server's id; without this key all servers count")
        twice = [each for each, count in Counter(ids or ()).items() if count > 1]
        if twice:
            raise ValueError(f"expected each server once: {brief(twice[0])} is there twice")
        return ids

    @model_validator(mode="after")
    def _ids_or_patterns(self) -> Self:
        if self.ids is not None and (self.include or self.exclude):
            raise ValueError("expected either ids, or include and exclude: ids name every server that counts")
        return self


class NamedProject(_Model):
    """A project by its name in a domain (the domain's name or id)."""

    name: Name
    domain: Name


# Tagged, so that a mistake is explained once and not for each alternative.
_WORD, _LIST, _TEXT, _NAMED = _BRANCHES = ("<word>", "<list>", "<text>", "<named>")
Project = Annotated[
    Annotated[Name, Tag(_TEXT)] | Annotated[NamedProject, Tag(_NAMED)],
    Discriminator(lambda project: _TEXT if isinstance(project, str) else _NAMED),
]
Projects = Annotated[
    Annotated[Literal["discover", "current"], Tag(_WORD)] | Annotated[tuple[Project, ...], Tag(_LIST)],
    Discriminator(lambda projects: _WORD if isinstance(projects, str) else _LIST),
]


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
    """Any key of `refresh`, for this cloud."""
    limits: CloudLimits = CloudLimits()
    """Any key of `limits` but `concurrency` and `series`, for this cloud."""

    @field_validator("projects", mode="before")
    @classmethod
    def _project_list(cls, value: Any) -> Any:
        if isinstance(value, list) and value:
            return tuple(value)
        if value not in ("discover", "current"):
            raise ValueError(f"expected discover, current, or a list of at least one project, not {brief(value)}")
        return value

    @field_validator("servers")
    @classmethod
    def _ids_of_known_projects(cls, servers: Servers, info: ValidationInfo) -> Servers:
        if servers.ids is not None and info.data.get("projects") == "discover":
            raise ValueError(
                "expected no ids where projects is discover, for each would be asked for in every project:"
                " give the servers' projects, or current"
            )
        return servers

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
    names: bool = True
    """Look up server and config names where the cloud lets us."""
    shard: Shard = Shard()
    clouds: tuple[Cloud, ...] = Field(default_factory=lambda: (Cloud(),))

    @field_validator("clouds", mode="before")
    @classmethod
    def _some(cls, value: Any) -> Any:
        if value in ([], ()):
            raise ValueError("expected at least one cloud")
        return _tuple(value)

    @field_validator("clouds")
    @classmethod
    def _unique(cls, clouds: tuple[Cloud, ...]) -> tuple[Cloud, ...]:
        names = [cloud.name for cloud in clouds]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"expected a different name for each cloud: {brief(twice)} is there twice")
        return clouds

    @model_validator(mode="after")
    def _effective(self) -> Self:
        """Fill in each cloud what it does not say itself."""
        clouds = tuple(
            cloud.model_copy(
                update={"refresh": _merged(self.refresh, cloud.refresh), "limits": _merged(self.limits, cloud.limits)}
            )
            for cloud in self.clouds
        )
        object.__setattr__(self, "clouds", clouds)
        return self

    @property
    def age_bounds(self) -> tuple[float, ...]:
        """The bounds of the age histograms in seconds."""
        return tuple(sorted({*self.buckets.age, self.thresholds.stuck_after}))

    def digest(self) -> float:
        """A number that is the same for the same configuration, whichever of its shards this exporter is (48 bits,
        which a double holds exactly)."""
        text = self.model_dump_json(exclude={"shard": {"index"}})
        return float(int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big"))


def _merged(base: CloudLimits | Refresh, own: CloudLimits | Refresh) -> CloudLimits | Refresh:
    values = {key: getattr(base, key) for key in type(own).model_fields}
    values |= {key: getattr(own, key) for key in own.model_fields_set}
    return type(own).model_construct(own.model_fields_set, **values)


class Loader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error instead of a silent loss of the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """The mapping; an error where a key stands twice."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {brief(key)} stands twice", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


_LARGEST: Final = 16 * 1024**2


def load(
    path: str | Path | None, *, shard: Mapping[str, Any] | None = None, families: Collection[str] | None = None
) -> Config:
    """Load the configuration from a file, or the default one without a file; ConfigError names what is wrong.

    `shard` overrides keys of the section of that name. `families` are the names of all metric families: a pattern that
    selects none of them is an error. None: patterns are not checked.
    """
    if path is None:
        return parse("", source="environment", shard=shard, families=families)
    try:
        with Path(path).open("rb") as file:
            body = file.read(_LARGEST + 1)
        text = body.decode()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from None
    if len(body) > _LARGEST:
        raise ConfigError(f"{path}: larger than {format_size(_LARGEST)}")
    return parse(text, source=str(path), shard=shard, families=families)


def parse(
    text: str, *, source: str, shard: Mapping[str, Any] | None = None, families: Collection[str] | None = None
) -> Config:
    """Read the configuration from a YAML text; `source` names it in errors, the rest is as for `load`."""
    try:
        content = yaml.load(text, Loader)  # noqa: S506 - the loader is a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"{source}: {where}not YAML: {problem}") from None
    except RecursionError:
        raise ConfigError(f"{source}: too deeply nested") from None
    except Exception as error:  # a date such as 2020-13-45, say
        raise ConfigError(f"{source}: not YAML: {error}") from None
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigError(f"{source}: expected keys such as refresh and clouds, not {type(content).__name__}")
    if shard:
        section = content.get("shard")
        content = content | {"shard": (section if isinstance(section, dict) else {}) | dict(shard)}
    try:
        return Config.model_validate(content, context={"families": families})
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    except ValidationError as error:
        raise ConfigError("\n".join(f"{source}: {line}" for line in _explain(error))) from None


def key_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of a file that is such a model, those of the items of a list behind `[].`."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        yield path
        inner = field.annotation
        if many := get_origin(inner) is tuple:
            inner = get_args(inner)[0]
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from key_paths(inner, f"{path}[]." if many else f"{path}.")


def keys_of(model: type[BaseModel], section: str) -> list[str]:
    """The names of the keys of a section of such a file, by its path in the way of `key_paths`."""
    split = (path.rpartition(".") for path in key_paths(model))
    return [name for before, _, name in split if before == section]


# A word of six letters is not taken for one with which it has four in common.
_ALIKE: Final = 0.75


def _meant(loc: Sequence[int | str]) -> str:
    """Which key an unknown one was probably meant to be: one of its name elsewhere, or one like it beside it; where
    there is none, those that may stand there."""
    *above, name = map(str, loc)
    section = ".".join(part for part in above if not part.isdecimal() and part not in _BRANCHES)
    section = section.replace("clouds", "clouds[]").replace("projects", "projects[]")
    # A cloud's own section has the same keys as that for all clouds, which comes first.
    if elsewhere := next((key for key in key_paths(Config) if key.rpartition(".")[2] == name), None):
        return f"; did you mean {elsewhere}?"
    beside = keys_of(Config, section) or list(NamedProject.model_fields)
    if alike := get_close_matches(name, beside, n=1, cutoff=_ALIKE):
        return f"; did you mean {section}{'.' if section else ''}{alike[0]}?"
    return f"; expected one of {', '.join(beside)}"


_SHOULD: Final = re.compile(r"^\w+ should (be|have) ")
_TYPES: Final[Mapping[str, str]] = {
    "model_type": "keys with their values",
    "tuple_type": "a list",
    "string_type": "a text",
    "int_type": "an integer",
    "float_type": "a number",
}


def _explain(error: ValidationError) -> list[str]:
    """One line for each mistake: the key's path and what was expected."""
    lines = []
    for each in error.errors(include_url=False):
        path = ""
        for part in each["loc"]:
            if isinstance(part, int):
                path += f"[{part}]"
            elif part not in _BRANCHES:
                path += ("." if path else "") + (part if part.isprintable() else repr(part))
        match each["type"]:
            case "extra_forbidden" | "invalid_key":
                message = f"unknown key{_meant(each['loc'])}"
            case "missing":
                message = "expected this key as well"
            case "value_error":
                message = str(each["ctx"]["error"])
            case kind:
                expected = _TYPES.get(kind) or _SHOULD.sub("", each["msg"])
                if each["loc"][-1:] == (_NAMED,):
                    expected = "a project's id or name, or {name: …, domain: …}"
                message = f"expected {expected}, not {brief(each['input'])}"
        lines.append(f"{path}: {message}")
    return lines
