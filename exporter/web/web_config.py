"""The web configuration file: TLS, passwords and headers, in the format that Prometheus' own exporters share.

It is read as a whole with the files that it names, so that a change of any of them is a change. No message ever holds
what stands in the file but names of keys and users: the rest may be a secret in the wrong place.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Self, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from exporter.common.errors import ConfigError
from exporter.config.schema import Loader, keys_of
from exporter.web.tls import CIPHERS, CURVES, Certificate, server_context

ClientAuth = Literal[
    "NoClientCert",
    "RequestClientCert",
    "RequireAnyClientCert",
    "RequireClientCert",
    "VerifyClientCertIfGiven",
    "RequireAndVerifyClientCert",
    "",
]
"""What a client has to show: the five policies, an old name of the third, and none."""
INSISTING: Final = ("RequireAnyClientCert", "RequireClientCert", "RequireAndVerifyClientCert")
TLSVersion = Literal["TLS10", "TLS11", "TLS12", "TLS13"]
HEADERS: Final[Mapping[str, tuple[str, ...]]] = {
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
    "Content-Security-Policy": (),
}
"""The headers that may be added, with the values that they may have where not every one is good."""

_LARGEST: Final = 4 * 1024**2
_YES: Final = frozenset({"y", "yes", "true", "on"})
_NO: Final = frozenset({"n", "no", "false", "off"})
_BCRYPT: Final = re.compile(r"\$2[abxy]?\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{53}")


class _Loader(Loader):
    """YAML whose plain words are texts, as a password or a user's name that looks like a number has to be."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as the base class has it
        first: [pair for pair in pairs if pair[0] in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")]
        for first, pairs in Loader.yaml_implicit_resolvers.items()
    }


def _flag(value: Any) -> bool:
    word = value.lower() if isinstance(value, str) else value
    if word in _YES or word in _NO:
        return word in _YES
    raise ValueError("expected true or false")


def _listed(known: Mapping[str, str], what: str) -> Callable[[tuple[str, ...]], tuple[str, ...]]:
    def check(names: tuple[str, ...]) -> tuple[str, ...]:
        if any(name not in known for name in names):
            raise ValueError(f"expected {what}: {', '.join(known)}")
        return names

    return check


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _allowed(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if name not in HEADERS:
            raise ValueError(f"expected no headers but {', '.join(HEADERS)}")
        if HEADERS[name] and value not in HEADERS[name]:
            raise ValueError(f"expected {name} to be {' or '.join(HEADERS[name])}")
        if not all(char == "\t" or " " <= char < "\x7f" for char in value):
            raise ValueError(f"expected {name} to be a line of ASCII text")
    return headers


def _hash(secret: SecretStr) -> SecretStr:
    if not _BCRYPT.fullmatch(secret.get_secret_value()):
        raise ValueError("expected a bcrypt hash, such as `htpasswd -nBC 10 ''` makes")
    return secret


def _number(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"\d{1,9}", value):
        return int(value)
    raise ValueError("expected a number from 0")


_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_AMOUNT: Final = re.compile(r"(\d{1,15}(?:\.\d{0,15})?)(ns|us|µs|ms|s|m|h)", re.ASCII)


def _go_duration(value: Any) -> float:
    """Seconds of a duration as Go reads it, such as `1m30s` or `1.5s`."""
    if value == "0":
        return 0.0
    if not isinstance(value, str) or not value or _AMOUNT.sub("", value):
        raise ValueError("expected a duration such as 100ms, 1s or 1m30s")
    return sum(float(amount) * _UNITS[unit] for amount, unit in _AMOUNT.findall(value))


Flag = Annotated[bool, BeforeValidator(_flag)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_tuple)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _absent(cls, content: Any) -> Any:
        """A key without a value is as good as none."""
        if isinstance(content, dict):
            return {key: value for key, value in content.items() if value is not None or key not in cls.model_fields}
        return content


class TLS(_Model):
    """The section `tls_server_config`."""

    cert: str = Field(default="", repr=False)
    """The certificate itself, with those that it needs, as PEM; instead of `cert_file`."""
    key: SecretStr = SecretStr("")
    """Its key itself, as PEM; instead of `key_file`."""
    client_ca: str = Field(default="", repr=False)
    """The authorities of clients' certificates themselves, as PEM; instead of `client_ca_file`."""
    cert_file: str = ""
    """The file that has the certificate, with those that it needs, as PEM."""
    key_file: str = ""
    """The file that has its key, without a password."""
    client_ca_file: str = ""
    """The file that has the authorities of clients' certificates."""
    client_auth_type: ClientAuth = ""
    """Whether clients have to show a certificate; absent: they need none."""
    client_allowed_sans: Texts | None = None
    """One of these names has to be in a client's certificate; absent: any name does."""
    min_version: TLSVersion = "TLS12"
    """The oldest version of TLS that is spoken."""
    max_version: TLSVersion = "TLS13"
    """The newest."""
    cipher_suites: Annotated[Texts, AfterValidator(_listed(CIPHERS, "names of cipher suites"))] = ()
    """The cipher suites up to TLS 1.2, by Go's names; absent: OpenSSL's choice."""
    prefer_server_cipher_suites: Flag = True
    """Whether the order of these is ours to choose."""
    curve_preferences: Annotated[Texts, AfterValidator(_listed(CURVES, "names of curves"))] = ()
    """The elliptic curves, by Go's names; absent: OpenSSL's choice."""

    @property
    def enabled(self) -> bool:
        """Whether anything here asks for TLS."""
        return bool(
            self.cert or self.cert_file or self.key.get_secret_value() or self.key_file
            or self.client_ca or self.client_ca_file or self.client_auth_type
        )  # fmt: skip

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.enabled and not (self.cert or self.cert_file):
            raise ValueError("expected cert_file or cert as well")
        if self.enabled and not (self.key_file or self.key.get_secret_value()):
            raise ValueError("expected key_file or key as well")
        if (self.client_ca or self.client_ca_file) and self.client_auth_type in ("", "NoClientCert"):
            raise ValueError("expected a client_auth_type that asks for certificates, where there is a client_ca")
        if self.client_allowed_sans is not None and self.enabled and self.client_auth_type not in INSISTING:
            raise ValueError(
                "expected client_auth_type RequireAndVerifyClientCert or RequireAnyClientCert"
                " where there are client_allowed_sans"
            )
        versions = get_args(TLSVersion)
        if versions.index(self.min_version) > versions.index(self.max_version):
            raise ValueError("expected a min_version that is not above max_version")
        return self


class HTTP(_Model):
    """The section `http_server_config`."""

    http2: Flag = True
    """Accepted for the format's sake: what is spoken is HTTP/1.1."""
    headers: Annotated[dict[str, str], AfterValidator(_allowed)] = {}
    """Headers of every answer: those of the format, by name."""


class RateLimit(_Model):
    """The section `rate_limit`."""

    interval: Annotated[float, BeforeValidator(_go_duration)] = 0.0
    """The time from one request to the next, as Go writes it (`100ms`); past it the answer is 429; 0: no limit."""
    burst: Annotated[int, BeforeValidator(_number)] = 0
    """How many may come at once."""


class WebConfig(_Model):
    """The whole file."""

    tls_server_config: TLS = TLS()
    http_server_config: HTTP = HTTP()
    rate_limit: RateLimit = RateLimit()
    basic_auth_users: dict[str, Annotated[SecretStr, AfterValidator(_hash)]] = {}
    """Users by name, each with the bcrypt hash of the password; absent: nobody is asked who they are."""


class _Content(NamedTuple):
    """A file as it was read: its bytes, or why there are none."""

    path: Path
    body: bytes
    problem: str = ""

    @classmethod
    def of(cls, path: Path) -> _Content:
        try:
            with path.open("rb") as file:
                body = file.read(_LARGEST + 1)
            return cls(path, body) if len(body) <= _LARGEST else cls(path, b"", "larger than 4 MiB")
        except OSError as error:
            return cls(path, b"", error.strerror or type(error).__name__)
        except ValueError:
            return cls(path, b"", "not the name of a file")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A web configuration that can be gone by."""

    config: WebConfig
    context: ssl.SSLContext | None
    """How TLS is spoken; None: it is not."""
    notes: tuple[str, ...] = ()
    """What of it can't be done to the letter, for the log."""

    @property
    def names(self) -> tuple[str, ...] | None:
        """One of these a client's certificate has to have; None: it doesn't matter."""
        return self.config.tls_server_config.client_allowed_sans


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """A web configuration file and what it names, as they were read; equal where nothing has changed."""

    path: Path
    digest: bytes
    empty: bool
    """Whether the file has nothing in it, as one that is being written may."""
    _config: WebConfig | ConfigError = field(repr=False, compare=False)
    _named: dict[str, _Content] = field(repr=False, compare=False)

    @classmethod
    def read(cls, path: Path) -> Files:
        """Everything as it is now; what is wrong with it is not said before `loaded`."""
        main = _Content.of(path)
        named: dict[str, _Content] = {}
        config: WebConfig | ConfigError
        try:
            config = _parse(main)
        except ConfigError as error:
            config = error
        else:
            tls = config.tls_server_config
            for key in ("cert_file", "key_file", "client_ca_file"):
                if name := getattr(tls, key):
                    named[key] = _Content.of(path.parent / name)
        digest = hashlib.sha256()
        for content in (main, *named.values()):
            for part in (str(content.path).encode(errors="surrogateescape"), content.body, content.problem.encode()):
                digest.update(len(part).to_bytes(8, "big") + part)
        empty = not main.problem and not main.body.strip()
        return cls(path=path, digest=digest.digest(), empty=empty, _config=config, _named=named)

    def loaded(self) -> Loaded:
        """What the files say; ConfigError where that can't be gone by."""
        if isinstance(self._config, ConfigError):
            raise ConfigError(str(self._config))
        tls = self._config.tls_server_config
        if not tls.enabled:
            return Loaded(config=self._config, context=None)
        for key, content in self._named.items():
            if content.problem:
                raise ConfigError(f"{self.path}: tls_server_config.{key}: can't read {content.path}: {content.problem}")
        inline = {"cert_file": tls.cert, "key_file": tls.key.get_secret_value(), "client_ca_file": tls.client_ca}
        pem = {key: self._named[key].body if key in self._named else text.encode() for key, text in inline.items()}
        notes: list[str] = []
        try:
            context = server_context(
                Certificate(chain=pem["cert_file"], key=pem["key_file"]),
                client_auth=tls.client_auth_type,
                client_authorities=pem["client_ca_file"],
                versions=(tls.min_version, tls.max_version),
                ciphers=tls.cipher_suites,
                prefer_own_order=tls.prefer_server_cipher_suites,
                curves=tls.curve_preferences,
                note=notes.append,
            )
        except ConfigError as error:
            raise ConfigError(f"{self.path}: tls_server_config: {error}") from None
        return Loaded(config=self._config, context=context, notes=tuple(notes))


def _parse(file: _Content) -> WebConfig:
    if file.problem:
        raise ConfigError(f"{file.path}: can't be read: {file.problem}")
    try:
        content = yaml.load(file.body.decode(), _Loader)  # noqa: S506 - the loader is a SafeLoader
    except Exception as error:  # whatever its text says may be a secret
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        twice = "stands twice" in str(getattr(error, "problem", None))
        raise ConfigError(f"{file.path}: {where}{'a key stands twice' if twice else 'not YAML'}") from None
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigError(f"{file.path}: expected keys such as tls_server_config and basic_auth_users")
    try:
        return WebConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{file.path}: {line}" for line in _explain(error))) from None


_EXPECTED: Final[Mapping[str, str]] = {
    "model_type": "keys with their values",
    "dict_type": "keys with their values",
    "tuple_type": "a list",
    "string_type": "a text",
}


def _explain(error: ValidationError) -> list[str]:
    """One line for each mistake: the key's path and what was expected, and never what was there instead."""
    lines = []
    for each in error.errors(include_url=False, include_input=False):
        path = ""
        for part in each["loc"]:
            if isinstance(part, int):
                path += f"[{part}]"
            else:
                path += ("." if path else "") + _shown(part)
        match each["type"]:
            case "extra_forbidden":
                section = ".".join(map(str, each["loc"][:-1]))
                message = f"unknown key; expected one of {', '.join(keys_of(WebConfig, section))}"
            case "value_error":
                message = str(each["ctx"]["error"])
            case "literal_error":
                message = f"expected {each['ctx']['expected']}"
            case kind:
                message = f"expected {_EXPECTED.get(kind, 'something else')}"
        lines.append(f"{path}: {message}")
    return lines


def _shown(name: str) -> str:
    """A key's name, unless it looks as if somebody had put a secret there."""
    return name if re.fullmatch(r"[\w.@+-]{1,40}", name) else "<some key>"
