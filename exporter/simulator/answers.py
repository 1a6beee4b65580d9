"""Answers as the OpenStack services write them: JSON without a charset, pages for paths that nobody knows."""

from __future__ import annotations

import json
import re
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


def not_found(accept: str) -> web.Response:
    """Return what Heat says of a path that it does not know: a page, JSON or plain text, whichever the client takes."""
    qualities: dict[str, float] = {}
    for element in accept.split(","):
        name, _, parameters = element.replace(" ", "").partition(";")
        quality = re.search(r"(?:^|;)q=([0-9.]+)", parameters)
        qualities[name] = float(quality[1]) if quality else 1.0
    html = max(qualities.get(name, 0.0) for name in ("text/html", "text/*", "*/*"))
    json = max(qualities.get(name, 0.0) for name in ("application/json", "application/*", "*/*"))
    if html and html >= json:
        return page(404)
    if json:
        message = "The resource could not be found.<br /><br />\n\n\n"
        return json_answer(404, {"message": message, "code": "404 Not Found", "title": "Not Found"})
    text = "404 Not Found\n\nThe resource could not be found.\n\n   "
    return web.Response(status=404, text=text, content_type="text/plain", charset="UTF-8")


def title(status: int) -> str:
    """Return the name of a status."""
    return HTTPStatus(status).phrase
