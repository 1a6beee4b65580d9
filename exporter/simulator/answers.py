"""Answers as the OpenStack services write them: JSON without a charset, pages for paths that nobody knows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus

from aiohttp import web

NOT_FOUND_PAGE = """<html>
 <head>
  <title>404 Not Found</title>
 </head>
 <body>
  <h1>404 Not Found</h1>
  The resource could not be found.<br /><br />



 </body>
</html>"""


def json_answer(status: int, body: object, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return a JSON answer with the separators and the escapes that the services use."""
    text = json.dumps(body).encode()
    return web.Response(status=status, body=text, headers={"Content-Type": "application/json", **(headers or {})})


def page(status: int, text: str = NOT_FOUND_PAGE) -> web.Response:
    """Return an HTML page."""
    return web.Response(status=status, text=text, content_type="text/html", charset="UTF-8")


def title(status: int) -> str:
    """Return the name of a status."""
    return HTTPStatus(status).phrase
