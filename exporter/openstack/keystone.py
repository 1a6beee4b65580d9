"""keystoneauth1 through our own connections.

It asks by way of `requests`, which collects whatever a server sends, unpacked, for as long as it sends anything: a
broken Keystone could take all memory, or a thread for ever. So `requests` is given an adapter that sends nothing
itself. What an answer has to be is as strict as for Heat's.

To be imported in a thread, for what it imports takes a while.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, Final, NoReturn

import requests
from keystoneauth1 import exceptions as ksa
from keystoneauth1.session import Session
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import get_encoding_from_headers
from urllib3.exceptions import InsecureRequestWarning

from exporter.common.errors import AnswerError, CatalogError, DecodeError, RefreshError, TransportError
from exporter.openstack.keystone_transport import KeystoneTransport, Reply

# What our own connections see to themselves.
_CONNECTION_HEADERS: Final = frozenset({"accept-encoding", "connection", "content-length", "transfer-encoding"})


def session_for(errand: Callable[[], KeystoneTransport], **options: Any) -> Session:
    """A session of keystoneauth1 whose requests are those of the errand that the calling thread is on."""
    http = requests.Session()
    http.trust_env = False  # no .netrc; proxies and authorities are the connections' matter
    for scheme in ("http://", "https://"):
        http.mount(scheme, _Adapter(errand))
    return Session(session=http, redirect=False, **options)


class _Adapter(BaseAdapter):
    """Has an errand send what `requests` wants to be sent."""

    def __init__(self, errand: Callable[[], KeystoneTransport]) -> None:
        super().__init__()
        self._errand = errand

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        """The answer, whole; ConnectionError around the RefreshError where there is none."""
        url = str(request.url)
        if verify is False and url.startswith("https:"):
            warnings.warn(f"Unverified HTTPS request to {url}", InsecureRequestWarning, stacklevel=2)
        headers = {
            name: value if isinstance(value, str) else value.decode("latin-1")
            for name, value in request.headers.items()
            if name.lower() not in _CONNECTION_HEADERS
        }
        body = request.body.encode() if isinstance(request.body, str) else request.body
        try:
            reply = self._errand().ask(str(request.method), url, headers, body)
        except RefreshError as error:
            raise requests.exceptions.ConnectionError(error, request=request) from error
        return self._response(request, reply)

    def close(self) -> None:
        """Nothing is open."""

    def _response(self, request: requests.PreparedRequest, reply: Reply) -> requests.Response:
        response = _Response()
        response.status_code = reply.status
        response.reason = reply.reason
        response.headers = CaseInsensitiveDict(reply.headers)
        response.encoding = get_encoding_from_headers(response.headers) or "utf-8"
        response.url = str(request.url)
        response.request = request
        response.connection = self  # type: ignore[assignment]  # plugins need no more of it than `send`
        response.raw = BytesIO(reply.body)
        return response


class _Response(requests.Response):
    """An answer whose JSON is read as strictly as a listing's."""

    def json(self, **options: Any) -> Any:
        """The one JSON value that it has; ValueError where that is not what it is."""
        pairs: list[tuple[str, Any]] = []

        def note(found: list[tuple[str, Any]]) -> dict[str, Any]:
            nonlocal pairs
            pairs = found  # in the end those of the outermost object
            return dict(found)

        try:
            value = json.loads(self.content.decode(), object_pairs_hook=note, parse_constant=_not_json)
        except RecursionError:
            raise ValueError("the JSON is nested too deeply") from None
        if isinstance(value, dict) and len(value) < len(pairs):
            raise ValueError("the answer has a key twice")
        return value


def _not_json(name: str) -> NoReturn:
    raise ValueError(f"the answer is not JSON: {name}")


def identity_failure(error: Exception, errand: KeystoneTransport) -> RefreshError:
    """The one reason of whatever an errand ended with; what nobody foresaw is raised again."""
    text = f"can't get the {errand.what}: {error}"
    if isinstance(error, RefreshError):
        return error
    if isinstance(error, ksa.HttpError) and error.http_status:
        return _answered(text, error.http_status, getattr(error.response, "headers", None) or {})
    failure = next((each for each in _chain(error) if isinstance(each, RefreshError)), None)
    if failure is not None:
        return failure
    if isinstance(error, _UNREADABLE):
        reply = errand.reply
        # 300 is how Keystone lists its versions.
        if reply is not None and not 200 <= reply.status <= 300:
            return _answered(text, reply.status, reply.headers)
        return DecodeError(text, api="identity")
    if isinstance(error, ksa.CatalogException):
        return CatalogError(text)
    if isinstance(error, ksa.AuthorizationFailure | ksa.AuthPluginException | ksa.MissingAuthMethods):
        return AnswerError(text, api="identity", status=401)
    if isinstance(error, ksa.ClientException):
        return TransportError(text, api="identity", reason="connect")
    raise error


# What keystoneauth1 raises, or stumbles over, where an answer is not as documented.
_UNREADABLE: Final = (
    ksa.InvalidResponse,
    ksa.DiscoveryFailure,
    ksa.EmptyCatalog,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)


def _answered(text: str, status: int, headers: Mapping[str, str]) -> AnswerError:
    return AnswerError(
        text, api="identity", status=status, retry_after=headers.get("Retry-After"), date=headers.get("Date")
    )


def _chain(error: BaseException) -> list[BaseException]:
    """The error and everything that it was raised from or wraps."""
    found: list[BaseException] = []
    todo: list[Any] = [error]
    while todo:
        each = todo.pop()
        if isinstance(each, BaseException) and each not in found:
            found.append(each)
            todo += [each.__cause__, each.__context__, *each.args]
    return found
