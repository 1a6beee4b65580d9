"""One software deployment as the exporter needs it, and how to read one from whatever a cloud sends.

Source: Heat's `GET /v1/{project_id}/software_deployments`. Only the needed fields are ever turned into objects;
input and output values are users' data and may hold secrets, so nothing of them but the exit code is read.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec

Rejection = Literal["not_object", "id", "too_deep"]
REJECTIONS: Final[tuple[Rejection, ...]] = ("not_object", "id", "too_deep")

TEXT_LIMIT: Final = 255
"""The characters of an id, a status or an action. Heat stores no more, and an exporter keeps many of them."""
Text = Annotated[str, msgspec.Meta(max_length=TEXT_LIMIT)]
Time = Annotated[datetime, msgspec.Meta(tz=True)]


class Outputs(msgspec.Struct, gc=False, frozen=True):
    """What the in-instance hook reported. A code of "" stands for one that is no integer, string or null."""

    deploy_status_code: int | str | None = None


class Deployment(msgspec.Struct, gc=False, frozen=True):
    """One deployment: `id` is never empty, any other text may be missing (None), times are aware.

    A text of more than TEXT_LIMIT characters is unusable, but for the reason, which may be long.
    """

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_LIMIT)]
    server_id: Text | None = None
    config_id: Text | None = None
    status: Text | None = None
    status_reason: str | None = None
    action: Text | None = None
    creation_time: Time | None = None
    updated_time: Time | None = None
    output_values: Outputs | None = None


class DocumentedDeployment(Deployment, gc=False, frozen=True):
    """One whose status and action are documented, as nearly all are: then both are always the same few objects, which
    are read and told apart faster than texts."""

    status: Literal["COMPLETE", "IN_PROGRESS", "FAILED"] | None = None
    action: Literal["CREATE", "UPDATE", "DELETE", "SUSPEND", "RESUME"] | None = None


class Batch(NamedTuple):
    """Some records of a response, in its order, and why others of the same stretch were rejected."""

    records: list[Deployment]
    rejected: list[Rejection]


class _LooseOutputs(msgspec.Struct, gc=False):
    deploy_status_code: Any = None


class _LooseDeployment(msgspec.Struct):
    """A deployment with fields of any type: the fields that the exporter reads, and no others."""

    id: Any = None
    server_id: Any = None
    config_id: Any = None
    status: Any = None
    status_reason: Any = None
    action: Any = None
    creation_time: Any = None
    updated_time: Any = None
    output_values: msgspec.Raw = msgspec.Raw(b"null")


_RECORD: Final = msgspec.json.Decoder(Deployment)
_LOOSE: Final = msgspec.json.Decoder(_LooseDeployment)
_LOOSE_OUTPUTS: Final = msgspec.json.Decoder(_LooseOutputs)
_OBJECT: Final = re.compile(rb"[ \t\n\r]*+\{")


def read_record(element: memoryview) -> Deployment | Rejection:
    """Return the deployment in one valid JSON value, keeping all that is usable, or why there is none.

    Three decoders, each an order of magnitude slower than the previous one: the types that Heat documents; any types
    (a time without a zone, a number for a name); Python's own, for integers of thousands of digits.
    """
    try:
        return _RECORD.decode(element)
    except (msgspec.DecodeError, RecursionError, ValueError):
        pass
    if not _OBJECT.match(element):
        return "not_object"
    try:
        return salvage(_loose_fields(element))
    except (msgspec.DecodeError, RecursionError, ValueError):
        pass
    try:
        return salvage(_PYTHON.decode(str(element, "utf-8")))
    except RecursionError:  # Python's decoder gives up a few levels earlier
        return "too_deep"


def _loose_fields(element: memoryview) -> dict[str, Any]:
    found = _LOOSE.decode(element)
    fields = {name: getattr(found, name) for name in _LooseDeployment.__struct_fields__}
    outputs = found.output_values
    if _OBJECT.match(memoryview(outputs)):
        fields["output_values"] = {"deploy_status_code": _LOOSE_OUTPUTS.decode(outputs).deploy_status_code}
    return fields


def _integer(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:  # more digits than Python converts: no exit code either
        return float("inf")


_PYTHON: Final = json.JSONDecoder(parse_int=_integer)


def salvage(item: Any) -> Deployment | Rejection:
    """A deployment from one decoded JSON value, keeping all that is usable, or why there is none.

    Any field but the id may be absent, null, of a wrong type or too long: it then counts as missing.
    """
    if not isinstance(item, dict):
        return "not_object"
    identity = _name(item.get("id"))
    if not identity:
        return "id"
    outputs = item.get("output_values")
    return Deployment(
        id=identity,
        server_id=_name(item.get("server_id")),
        config_id=_name(item.get("config_id")),
        status=_name(item.get("status")),
        status_reason=_text(item.get("status_reason")),
        action=_name(item.get("action")),
        creation_time=parse_time(item.get("creation_time")),
        updated_time=parse_time(item.get("updated_time")),
        output_values=Outputs(_code(outputs.get("deploy_status_code"))) if isinstance(outputs, dict) else None,
    )


def _text(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    # JSON can spell half of a surrogate pair, UTF-8 can't.
    return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _name(value: Any) -> str | None:
    text = _text(value)
    return text if text is not None and len(text) <= TEXT_LIMIT else None


def _code(value: Any) -> int | str | None:
    if value is None or isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    return ""


_CANONICAL: Final = re.compile(r"0|-?[1-9][0-9]*", re.ASCII)


def exit_code(value: int | str | None) -> int | Literal["none", "invalid"]:
    """What a `deploy_status_code` means: an integer, also as a string in canonical decimal, `none` or `invalid`."""
    if value is None:
        return "none"
    if isinstance(value, int):
        return value
    if _CANONICAL.fullmatch(value):
        try:
            return int(value)
        except ValueError:  # more digits than Python converts
            pass
    return "invalid"


_TIME: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?\s*(?:([Zz])|([+-])(\d\d)(?::?([0-5]\d))?)?",
    re.ASCII,
)


def parse_time(value: Any) -> datetime | None:
    """An aware time from ISO 8601 text (`Z`, any offset, or none: UTC), or None where it can't be read.

    A leap second is the second after :59.
    """
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    year, month, day, hour, minute = (int(part) for part in match.groups()[:5])
    second, fraction, _, sign, offset_hours, offset_minutes = match.groups()[5:]
    seconds = int(second or 0)
    try:
        zone = UTC
        if sign:
            offset = timedelta(hours=int(offset_hours), minutes=int(offset_minutes or 0))
            zone = timezone(-offset if sign == "-" else offset)
        if seconds > 60:
            return None
        when = datetime(year, month, day, hour, minute, min(seconds, 59), tzinfo=zone)
        # Rounded as msgspec does, by the seventh digit.
        microseconds = (int(f"{fraction or '':0<7.7}") + 5) // 10
        return when + timedelta(seconds=seconds - when.second, microseconds=microseconds)
    except (ValueError, OverflowError):
        return None
