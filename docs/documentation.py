"""The tables of the documentation that come from code: `python -m docs.documentation` renews them in place.

A table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`, in the README or a page of docs; a test fails when
one differs from the code.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import click
from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from exporter.cli import commands
from exporter.config.schema import Cloud, Config
from exporter.config.units import format_duration, format_size
from exporter.metrics.families import FAMILIES, SCOPE_LABELS, Scope
from exporter.web.web_config import WebConfig

_KINDS: Final = {"gaugehistogram": "gauge histogram"}
_SCOPES: Final[dict[Scope, str]] = {
    "data": "Of the cloud's data; withdrawn while the data is stale.",
    "project": "About fetching a project.",
    "cloud": "About a cloud.",
    "exporter": "About the exporter itself (besides `process_*` and `python_*`).",
}


def metrics_table() -> str:
    """Every metric family as Markdown, by what it is about."""
    lines: list[str] = []
    for scope, title in _SCOPES.items():
        common = ", ".join(f"`{label}`" for label in SCOPE_LABELS[scope]) or "none"
        lines += ["", f"**{title}** Labels of all: {common}.", "", "| family | type | further labels | meaning |"]
        lines.append("| --- | --- | --- | --- |")
        for family in FAMILIES:
            if family.scope == scope:
                labels = ", ".join(f"`{label}`" for label in family.labels)
                kind = _KINDS.get(family.kind, family.kind)
                lines.append(f"| `{family.name}` | {kind} | {labels} | [{family.stability}] {family.help} |")
    return "\n".join([*lines, ""])


# -- configuration files

EXAMPLES: Final[Mapping[str, str]] = {
    "refresh.interval": "refresh: {interval: 2m}",
    "refresh.timeout": "refresh: {timeout: 5m}",
    "refresh.silence": "refresh: {silence: 2m}",
    "refresh.stale_after": "refresh: {stale_after: 15m}",
    "refresh.share": "refresh: {share: 0.1}",
    "refresh.slow_after": "refresh: {slow_after: 10s}",
    "refresh.discovery": "refresh: {discovery: 1h}",
    "limits.requests_per_second": "limits: {requests_per_second: 2.5}",
    "limits.response_bytes": "limits: {response_bytes: 500MiB}",
    "limits.servers": "limits: {servers: 500}",
    "limits.configs": "limits: {configs: 50}",
    "limits.problems": "limits: {problems: 50}",
    "limits.series": "limits: {series: 100000}",
    "limits.concurrency": "limits: {concurrency: 16}",
    "thresholds.stuck_after": "thresholds: {stuck_after: 30m}",
    "buckets.age": "buckets: {age: [1h, 1d, 30d]}",
    "buckets.duration": "buckets: {duration: [10s, 1m, 10m]}",
    "buckets.deploy_status_code": "buckets: {deploy_status_code: [0, 1, 127]}",
    "metrics.include": "metrics: {include: [heat_software_deployments.*, heat_up]}",
    "metrics.exclude": "metrics: {exclude: [heat_server_.*]}",
    "names": "names: false",
    "shard.index": "shard: {index: 2, total: 3}",
    "shard.total": "shard: {index: 0, total: 3}",
    "clouds[].name": "clouds: [{name: production, cloud: otc}]",
    "clouds[].cloud": "clouds: [{cloud: otc}]",
    "clouds[].projects": "clouds: [{cloud: otc, projects: [web-frontend, {name: billing, domain: Default}]}]",
    "clouds[].servers.ids": "clouds: [{cloud: otc, projects: current, servers: {ids: [0c9e4a35]}}]",
    "clouds[].servers.include": "clouds: [{cloud: otc, servers: {include: ['prod-.*']}}]",
    "clouds[].servers.exclude": "clouds: [{cloud: otc, servers: {exclude: ['test-.*']}}]",
    "clouds[].refresh": "clouds: [{cloud: otc, refresh: {interval: 5m}}]",
    "clouds[].limits": "clouds: [{cloud: otc, limits: {servers: 0}}]",
}  # fmt: skip
"""For each key of the configuration file, a whole configuration that has it; a test has each of them read."""
_PAIR: Final = "cert_file: exporter.pem, key_file: exporter.key"
_CLIENTS: Final = f"{_PAIR}, client_auth_type: RequireAndVerifyClientCert, client_ca_file: clients.pem"
WEB_EXAMPLES: Final[Mapping[str, str]] = {
    "tls_server_config.cert": "tls_server_config: {cert: '-----BEGIN CERTIFICATE-----…', key_file: exporter.key}",
    "tls_server_config.key": "tls_server_config: {cert_file: exporter.pem, key: '-----BEGIN PRIVATE KEY-----…'}",
    "tls_server_config.client_ca": (
        f"tls_server_config: {{{_PAIR}, client_auth_type: VerifyClientCertIfGiven,"
        " client_ca: '-----BEGIN CERTIFICATE-----…'}"
    ),
    "tls_server_config.cert_file": f"tls_server_config: {{{_PAIR}}}",
    "tls_server_config.key_file": f"tls_server_config: {{{_PAIR}}}",
    "tls_server_config.client_ca_file": f"tls_server_config: {{{_CLIENTS}}}",
    "tls_server_config.client_auth_type": f"tls_server_config: {{{_CLIENTS}}}",
    "tls_server_config.client_allowed_sans": (
        f"tls_server_config: {{{_CLIENTS}, client_allowed_sans: [prometheus.example.org]}}"
    ),
    "tls_server_config.min_version": f"tls_server_config: {{{_PAIR}, min_version: TLS13}}",
    "tls_server_config.max_version": f"tls_server_config: {{{_PAIR}, max_version: TLS12}}",
    "tls_server_config.cipher_suites": (
        f"tls_server_config: {{{_PAIR}, cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]}}"
    ),
    "tls_server_config.prefer_server_cipher_suites": (
        f"tls_server_config: {{{_PAIR}, prefer_server_cipher_suites: false}}"
    ),
    "tls_server_config.curve_preferences": f"tls_server_config: {{{_PAIR}, curve_preferences: [CurveP256]}}",
    "http_server_config.http2": "http_server_config: {http2: false}",
    "http_server_config.headers": "http_server_config: {headers: {X-Frame-Options: deny}}",
    "rate_limit.interval": "rate_limit: {interval: 100ms, burst: 20}",
    "rate_limit.burst": "rate_limit: {interval: 100ms, burst: 20}",
    "basic_auth_users": (
        "basic_auth_users: {prometheus: $2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG}"
    ),
}
"""The same for each key of the web configuration file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key of a configuration file, as Markdown says it."""

    path: str
    type: str
    default: str
    meaning: str


def configuration_table() -> str:
    """Every key of the configuration file as Markdown, with its type, default, meaning and an example."""
    return _keys_table(Config, EXAMPLES)


def web_configuration_table() -> str:
    """The same of the web configuration file."""
    return _keys_table(WebConfig, WEB_EXAMPLES)


def _keys_table(model: type[BaseModel], examples: Mapping[str, str]) -> str:
    lines = ["", "| key | type | default | meaning | example |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| `{key.path}` | {key.type} | {key.default} | {key.meaning} | `{examples[key.path]}` |" for key in keys(model)
    ]
    return "\n".join([*lines, ""])


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[Key]:
    """Every key of a file that is such a model, `prefix` before each."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        inner = _model(field.annotation)
        if inner is None or (model is Cloud and name in ("refresh", "limits")):
            kind = _kind(field.annotation, field.metadata)
            yield Key(
                path=path,
                type=kind.replace("|", "\\|"),
                default=_default(field.get_default(call_default_factory=False), kind),
                meaning=(field.description or "").replace("|", "\\|"),
            )
        else:
            many = get_origin(field.annotation) is tuple
            yield from keys(inner, f"{path}[]." if many else f"{path}.")


def _model(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation is of, itself or as a tuple's items."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return _model(get_args(annotation)[0]) if get_origin(annotation) is tuple else None


_READ_BY: Final[Mapping[str, str]] = {
    "parse_duration": "duration",
    "_go_duration": "duration",
    "parse_size": "size",
    "_pattern": "regular expression",
    "_number": "integer from 0",
    "_hash": "bcrypt hash",
}
"""What the functions that read a value make of the type that they are put to."""
_PLAIN: Final[Mapping[Any, str]] = {
    bool: "`true` or `false`",
    int: "integer",
    float: "number",
    str: "text",
    SecretStr: "text",
}


def _kind(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """What a value has to be, in words."""
    said = [part for each in metadata for part in (each.metadata if isinstance(each, FieldInfo) else (each,))]
    for each in said:
        if word := _READ_BY.get(getattr(getattr(each, "func", None), "__name__", "")):
            return word + _range(said, word)
    arguments = get_args(annotation)
    match get_origin(annotation):
        case origin if origin is Annotated:
            return _kind(arguments[0], arguments[1:])
        case origin if origin in (Union, UnionType):
            return ", or ".join(_kind(each) for each in arguments if each is not NoneType)
        case origin if origin is Literal:
            return " or ".join(f"`{each}`" for each in arguments if each)
        case origin if origin is tuple:
            item = _kind(arguments[0])
            return f"list, each a {item}" if ", or " in item else re.sub(r"^(regular )?\w+", r"list of \g<0>s", item)
        case origin if origin is dict:
            return f"names, each with a {_kind(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        section = _section(annotation)
        return f"keys of `{section}`" if section else f"`{{{', '.join(annotation.model_fields)}}}`"
    return _PLAIN[annotation] + _range(said, _PLAIN[annotation])


def _section(model: type[BaseModel]) -> str:
    """The section of the configuration file that has a model's keys; "" where none has."""
    for name, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, model):
            return name
    return ""


def _range(metadata: Iterable[Any], word: str) -> str:
    """What the bounds of a number add to its type's name; of several of a kind the last one, which is the tightest."""
    bounds: dict[str, Any] = {}
    for each in metadata:
        match each:
            case Gt(gt=bound):
                bounds["above"] = bound
            case Ge(ge=int() | float() as bound) if abs(bound) < 2**53:
                bounds["from"] = bound
            case Le(le=int() | float() as bound) if abs(bound) < 2**53:
                bounds["up to"] = bound
    text = "".join(f" {kind} {bound}" for kind, bound in bounds.items())
    return "" if text in word else text


def _default(value: Any, kind: str) -> str:
    def show(each: Any) -> str:
        if isinstance(each, bool):
            return str(each).lower()
        if "duration" in kind:
            return format_duration(each)
        return format_size(each) if kind.startswith("size") else str(each)

    if value is None or value in ("", (), {}) or isinstance(value, BaseModel | SecretStr):
        return ""
    text = ", ".join(map(show, value)) if isinstance(value, tuple) else show(value)
    return f"`{text}`"


# -- flags


def flags_table() -> str:
    """Every flag of every command as Markdown, with its environment variable, default and meaning."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, command in commands.main.commands.items():
        for option in command.params:
            assert isinstance(option, click.Option)
            default = option.default
            row = (
                f"`{option.opts[0]}`",
                f"`{option.envvar}`",
                _takes(option),
                ", ".join(f"`{each}`" for each in (default if isinstance(default, list | tuple) else [default]))
                if option.show_default
                else "",
                option.help or "",
            )
            rows.setdefault(row, []).append(f"`{name}`")
    lines = [
        "",
        "| flag | environment variable | takes | default | of | meaning |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {flag} | {variable} | {takes} | {default} | {', '.join(of)} | {meaning} |"
        for (flag, variable, takes, default, meaning), of in sorted(rows.items(), key=lambda row: row[0][0])
    ]
    return "\n".join([*lines, ""])


def _takes(option: click.Option) -> str:
    if option.is_flag:
        return ""
    if isinstance(option.type, click.Choice):
        return " or ".join(f"`{each}`" for each in option.type.choices)
    kind = option.metavar or (
        "NUMBER" if isinstance(option.type, click.types.IntParamType | click.types.FloatParamType) else "TEXT"
    )
    return f"`{kind}`".replace("|", "\\|")


TABLES: Final[Mapping[str, Callable[[], str]]] = {
    "metrics": metrics_table,
    "configuration": configuration_table,
    "web-configuration": web_configuration_table,
    "flags": flags_table,
}


def renewed(text: str) -> str:
    """The text with every table in it as the code has it now."""
    for name, table in TABLES.items():
        text = replaced(text, name, table)
    return text


def replaced(text: str, name: str, table: Callable[[], str]) -> str:
    """The text with this between its marks of this name, if it has them."""
    pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}{table()}\n{match[2]}", text)


def main(paths: list[str]) -> None:
    """Renew the tables in these files, without any in all pages of the documentation."""
    for path in map(Path, paths) if paths else [Path("README.md"), *sorted(Path("docs").glob("*.md"))]:
        path.write_text(renewed(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
