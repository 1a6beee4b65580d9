"""The pages' stylesheet, script and icon, as the package brings them; nothing is fetched from anywhere else."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Final, NamedTuple

_TYPES: Final = {
    "pages.css": "text/css; charset=utf-8",
    "pages.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


class Asset(NamedTuple):
    """A file, and the version that its address may name: a page and what it was made for stay together."""

    body: bytes
    content_type: str
    version: str


def _read(name: str) -> Asset:
    body = resources.files("exporter.ui").joinpath("web_assets", name).read_bytes()
    return Asset(body, _TYPES[name], hashlib.sha256(body).hexdigest()[:16])


ASSETS: Final = {name: _read(name) for name in _TYPES}


def address(name: str) -> str:
    """An asset's address, relative to any page."""
    return f"./assets/{name}?v={ASSETS[name].version}"
