"""The configuration in force as YAML, and what openstacksdk made of each cloud's entry; secrets are masked.

What openstacksdk resolved is shown by a list of what is known to be harmless: whatever else stands in clouds.yaml, in
secure.yaml or in the environment is masked or left out, its name too, for names may be typed wrongly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import yaml
from yarl import URL

from exporter.config.schema import Config

MASK: Final = "<secret>"

_AUTH: Final = (
    "auth_url",
    "username",
    "user_id",
    "user_domain_id",
    "user_domain_name",
    "project_id",
    "project_name",
    "project_domain_id",
    "project_domain_name",
    "domain_id",
    "domain_name",
    "default_domain_id",
    "default_domain_name",
    "system_scope",
    "trust_id",
    "application_credential_id",
    "application_credential_name",
)
_AUTH_SECRETS: Final = (
    "password",
    "token",
    "application_credential_secret",
    "passcode",
    "access_token",
    "client_secret",
)
_SETTINGS: Final = (
    "profile",
    "auth_type",
    "region_name",
    "interface",
    "identity_api_version",
    "orchestration_endpoint_override",
    "verify",
    "cacert",
    "cert",
)
_SETTINGS_SECRETS: Final = ("key",)
_URLS: Final = frozenset({"auth_url", "orchestration_endpoint_override", "profile"})
_LENGTH: Final = 500


class _Dumper(yaml.SafeDumper):
    """YAML with short lists on one line and without references."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _list(dumper: _Dumper, data: list[Any]) -> yaml.SequenceNode:
    short = not any(isinstance(each, dict | list) for each in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=short)


_Dumper.add_representer(list, _list)


def _dump(content: Any) -> str:
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def configuration(config: Config) -> str:
    """The configuration in force, every default filled in: a file that says the same."""
    return _dump(config.model_dump(mode="json"))


def clouds(resolved: Mapping[str, Mapping[str, Any]]) -> str:
    """What openstacksdk resolved, by cloud, as far as it may be shown."""
    return _dump({name: harmless(settings) for name, settings in resolved.items()})


def harmless(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one cloud that may be shown, secrets masked."""
    shown: dict[str, Any] = {
        name: _value(name, settings[name]) for name in _SETTINGS if settings.get(name) not in (None, "")
    }
    shown |= {name: MASK for name in _SETTINGS_SECRETS if settings.get(name)}
    auth = settings.get("auth")
    if isinstance(auth, Mapping):
        found = {name: _value(name, auth[name]) for name in _AUTH if auth.get(name) not in (None, "")}
        found |= {name: MASK for name in _AUTH_SECRETS if auth.get(name)}
        if any(name not in _AUTH and name not in _AUTH_SECRETS for name in auth):
            found["others"] = MASK
        shown["auth"] = found
    return shown


def _value(name: str, value: Any) -> Any:
    if isinstance(value, bool | int | float):
        return value
    if not isinstance(value, str) or len(value) > _LENGTH or not value.isprintable():
        return MASK  # a certificate instead of its file's name, say
    return bare_url(value) if name in _URLS else value


def bare_url(text: str) -> str:
    """A URL without user, password, query and fragment; the mask for what is none."""
    if "://" not in text:
        return text if text.replace("-", "").replace("_", "").isalnum() else MASK
    try:
        url = URL(text)
        if "@" in url.path:
            return MASK  # of a user or password that should have been quoted
        return str(URL.build(scheme=url.scheme, host=url.host or "", port=url.explicit_port, path=url.path))
    except ValueError:
        return MASK
