"""One software deployment as the exporter needs it, and how to read one from whatever a cloud sends.

Source: Heat's `GET /v1/{project_id}/software_deployments`. Only the needed fields are ever turned into objects;
input and output values are users' data and may hold secrets, so nothing of them but the exit code is read.
"""

from __future__ import annotations

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

    @property
    def size(self) -> int:
        """How many elements were read."""
        return len(self.records) + len(self.rejected)

    def add(self, read: Deployment | Rejection) -> None:
        """Add one element, as `read_record` has read it."""
        if isinstance(read, Deployment):
            self.records.append(read)
        else:
            self.rejected.append(read)


_NULL: Final = msgspec.Raw(b"null")


class _RawOutputs(msgspec.Struct, gc=False):
    deploy_status_code: msgspec.Raw = _NULL


class _RawDeployment(msgspec.Struct, gc=False):
    """The fields that the exporter reads, each as it is written, whatever its type."""

    id: msgspec.Raw = _NULL
    server_id: msgspec.Raw = _NULL
    config_id: msgspec.Raw = _NULL
    status: msgspec.Raw = _NULL
    status_reason: msgspec.Raw = _NULL
    action: msgspec.Raw = _NULL
    creation_time: msgspec.Raw = _NULL
    updated_time: msgspec.Raw = _NULL
    output_values: msgspec.Raw = _NULL


_RECORD: Final = msgspec.json.Decoder(Deployment)
_FIELDS: Final = msgspec.json.Decoder(_RawDeployment)
_OUTPUTS: Final = msgspec.json.Decoder(_RawOutputs)
_SCALAR: Final = msgspec.json.Decoder(str | int | float | bool | None)


def read_record(element: memoryview | msgspec.Raw) -> Deployment | Rejection:
    """Return the deployment in one valid JSON value, keeping all that is usable, or why there is none."""
    try:
        return _RECORD.decode(element)
    except RecursionError:
        return "too_deep"
    except (msgspec.DecodeError, ValueError):  # such as a time without a zone, or a number for a name
        pass
    try:
        found = _FIELDS.decode(element)
    except RecursionError:
        return "too_deep"
    except msgspec.DecodeError:
        return "not_object"
    fields = ((name, getattr(found, name)) for name in _RawDeployment.__struct_fields__)
    item = {name: _scalar(value) for name, value in fields if value is not _NULL}
    try:
        outputs = _OUTPUTS.decode(found.output_values)
    except msgspec.ValidationError:
        pass
    else:
        item["output_values"] = {"deploy_status_code": _scalar(outputs.deploy_status_code)}
    return salvage(item)


def _scalar(value: msgspec.Raw) -> object:
    """A text, number, boolean or null; a list in place of every other value, because no field of a deployment is one.

    Other values are never decoded, however large they are.
    """
    try:
        return _SCALAR.decode(value)
    except (msgspec.DecodeError, ValueError):  # also a number of more digits than Python converts
        return []


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
