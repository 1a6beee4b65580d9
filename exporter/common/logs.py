"""Structured logs on stderr, as logfmt or JSON, one line an event; values never break a line."""

from __future__ import annotations

import logging
import sys
from typing import Any, Final, Literal

import structlog

from exporter.common.redaction import redacted

LogFormat = Literal["logfmt", "json"]
LEVELS: Final = ("debug", "info", "warning", "error")


def configure(*, level: str, format: LogFormat) -> None:
    """Send everything of this level and above to stderr, the libraries' warnings too."""
    shared: list[Any] = [
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        structlog.stdlib.add_log_level,
        structlog.processors.format_exc_info,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if format == "json"
        else structlog.processors.LogfmtRenderer(key_order=["ts", "level", "event"], bool_as_flag=False)
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _one_line, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # These libraries log requests with their headers and bodies at debug level, tokens among them; and keystoneauth
    # warns at each attempt of what is told once here.
    for name in ("keystoneauth", "urllib3", "openstack", "stevedore", "requests"):
        logging.getLogger(name).setLevel(logging.ERROR if name == "keystoneauth" else logging.WARNING)
    # Each answer on /metrics is no event.
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


# Everything that some reader takes for the end of a line or of a field, as Python spells it.
_CONTROLS: Final = {code: repr(chr(code))[1:-1] for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)}


def _one_line(logger: Any, method: str, event: Any) -> Any:
    """The event with values that begin no line of their own, give away nothing of a URL, and are cut where they are
    long: a cloud or a client may have sent them."""
    return {
        key: visible(redacted(str(value))) if isinstance(value, (str, Exception)) else value
        for key, value in event.items()
    }


def visible(text: str) -> str:
    """The text with its control characters spelled out: none ends a line, moves a cursor or steers a terminal."""
    return text.translate(_CONTROLS)
