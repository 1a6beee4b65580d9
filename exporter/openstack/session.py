"""Access to one cloud: its clouds.yaml entry, tokens, the catalog and the connections of our own requests.

openstacksdk reads the configuration (clouds.yaml, secure.yaml, clouds-public.yaml, `OS_*`) and keystoneauth1
authenticates; both block, so they run beside the event loop, and are imported there too because that takes a while.
A token is fetched once for each project and kept until shortly before it ends; whoever needs a new one at the same
moment shares one authentication.
"""

from __future__ import annotations

import asyncio
import copy
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import aiohttp
from aiolimiter import AsyncLimiter

from exporter import __version__
from exporter.common.clock import since_boot
from exporter.common.deadline import Deadline
from exporter.common.errors import RAISE, AnswerError, Api, CatalogError, ConfigError, DeadlineError, DecodeError
from exporter.common.threads import run_blocking
from exporter.config.units import format_duration
from exporter.openstack import network
from exporter.openstack.keystone_transport import KeystoneTransport

if TYPE_CHECKING:
    from keystoneauth1.session import Session
    from openstack.config.cloud_region import CloudRegion

SERVICES: Final[tuple[Api, ...]] = ("orchestration", "compute")
"""The service types whose endpoints are looked up in the catalog."""
USER_AGENT: Final = f"heat-deployment-exporter/{__version__}"
# A token is renewed this long before its end, or a tenth of its life before where that is shorter.
RENEWAL_MARGIN: Final = 120.0
STACK_USER_PROJECT: Final = "Heat stack user project"
"""The description that Heat gives to a project for a stack's own users."""
READ_BUFFER: Final = 256 * 1024


class Project(NamedTuple):
    """A project as Keystone lists it."""

    id: str
    name: str
    domain_id: str
    enabled: bool
    stack_user: bool = False
    """Whether Heat made it for a stack's own users, whose deployments are listed in the stack's project."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token scoped to one project, and where that project's Heat is. Its value never shows in a repr."""

    value: str = field(repr=False)
    project_id: str
    project_name: str
    domain_name: str
    """Of the project."""
    administrator: bool
    """Whether Heat lists the deployments of every project to it, as far as its roles tell."""
    endpoints: Mapping[Api, str]
    """By service type, without a slash at their end, those that the catalog has."""
    renew_at: float
    """By the steady clock."""


@dataclass(slots=True)
class RequestCounters:
    """Counts of what one cloud was asked for."""

    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By API and HTTP status, or `error`."""
    authentications: int = 0


class CloudSession:
    """One cloud's credentials, tokens and client session. Open it, use it for as long as the cloud is watched.

    ConfigError from `open` means that the entry can't be used; RefreshError from all else that the cloud failed.
    """

    def __init__(
        self,
        *,
        name: str,
        entry: str | None,
        requests_per_second: float,
        timeout: float,
        silence: float,
        clock: Callable[[], float] = since_boot,
    ) -> None:
        self.name = name
        self.traffic = RequestCounters()
        self._entry = entry
        self._clock = clock
        self._limiter = AsyncLimiter(1, 1 / requests_per_second)
        self._timeout = timeout
        self._silence = silence
        self._region: CloudRegion | None = None
        self._identity: Session | None = None
        self._client: aiohttp.ClientSession | None = None
        self._tokens: dict[str | None, Token] = {}
        self._plugins: dict[str | None, Any] = {}
        self._renewals: dict[str | None, asyncio.Task[Token]] = {}
        self._errands = threading.local()
        """What each thread asks Keystone for."""
        self._files = ""
        """What the certificate files were when it was opened."""
        self.own_project = ""
        """The project that the cloud entry itself is scoped to, once it is known."""
        self._users = 0
        self._retired = False

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def tune(self, *, requests_per_second: float, timeout: float, silence: float) -> None:
        """Go by these limits from now on; nothing that was fetched is lost."""
        if self._limiter.time_period != 1 / requests_per_second:
            self._limiter = AsyncLimiter(1, 1 / requests_per_second)
        self._timeout, self._silence = timeout, silence

    def same_as(self, other: CloudSession) -> bool:
        """Whether both were opened with the same settings, credentials and certificates."""
        assert self._region is not None, "open() comes first"
        assert other._region is not None, "open() comes first"
        return (self._entry, self._files, self._region.config) == (other._entry, other._files, other._region.config)

    async def open(self) -> None:
        """Read the cloud's entry and make the one client session that all its requests use."""
        region: CloudRegion = await run_blocking(self._load, name=f"config-{self.name}")
        self._region = region
        self._files = await run_blocking(lambda: network.fingerprint(region.config), name=f"config-{self.name}")
        try:
            # Reading a system's authorities takes a while too.
            tls = await run_blocking(
                lambda: network.tls_context(*region.get_requests_verify_args()), name=f"tls-{self.name}"
            )
        except ConfigError as error:
            raise ConfigError(f"cloud {self.name!r}: {error}") from None
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, limit=0, resolver=network.Resolver()),
            headers={"User-Agent": USER_AGENT, "Accept": "application/json", "Accept-Encoding": "gzip, deflate"},
            auto_decompress=False,  # bounded steps of our own instead
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=READ_BUFFER,
        )

    @asynccontextmanager
    async def in_use(self) -> AsyncIterator[None]:
        """While this lasts, `retire` leaves its connections alone."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if self._retired and not self._users:
                await self.close()

    async def retire(self) -> None:
        """Close as soon as nobody uses it any more."""
        self._retired = True
        if not self._users:
            await self.close()

    async def close(self) -> None:
        """End its connections."""
        for task in self._renewals.values():
            task.cancel()
        if self._client is not None:
            await self._client.close()

    @property
    def client(self) -> aiohttp.ClientSession:
        """The client session, with the cloud entry's TLS settings."""
        assert self._client is not None, "open() comes first"
        return self._client

    @property
    def settings(self) -> Mapping[str, Any]:
        """What openstacksdk resolved for the entry, secrets included; empty before `open`."""
        return {} if self._region is None else self._region.config

    @property
    def bound_to_project(self) -> bool:
        """Whether the credentials work for one project only (an application credential, a project's own token)."""
        assert self._region is not None, "open() comes first"
        kind = str(self._region.config.get("auth_type", ""))
        return "applicationcredential" in kind.replace("_", "")

    async def admitted(self, stopwatch: Deadline) -> None:
        """Wait until the cloud may be sent one more request; the wait is not on the refresh's time."""
        with stopwatch.paused():
            await self._limiter.acquire()

    async def token(
        self, project_id: str | None = None, *, stopwatch: Deadline, rejected: Token | None = None
    ) -> Token:
        """A token for a project (None: the scope of the cloud entry), fetched only where there is none that is good.

        `rejected` is one that the cloud refused: it is not used again, and everybody who had it refused at this
        moment waits for the same renewal.
        """
        kept = self.held(project_id)
        if kept is not None and kept is not rejected:
            return kept
        if rejected is not None and self._tokens.get(project_id) is rejected:
            for scope in self._alike(project_id):
                self._tokens.pop(scope, None)
        renewal = next((self._renewals[scope] for scope in self._alike(project_id) if scope in self._renewals), None)
        if renewal is None:
            renewal = asyncio.create_task(self._renew(project_id, stopwatch), name=f"token {self.name}/{project_id}")
            self._renewals[project_id] = renewal
            renewal.add_done_callback(lambda done: self._renewed(project_id, done))
        # Whoever stops waiting leaves it alone: others may wait for it too, and its error is not nobody's.
        await asyncio.wait((renewal,))
        return renewal.result()

    def held(self, project_id: str | None) -> Token | None:
        """The token that there is for a project, if it is good for a while yet; nobody is asked for one."""
        kept = self._tokens.get(project_id)
        return kept if kept is not None and self._clock() < kept.renew_at else None

    def _alike(self, project_id: str | None) -> tuple[str | None, ...]:
        """The scopes that one token serves: the entry's own one is a project like any other."""
        own = self.own_project
        return (None, own) if own and project_id in (None, own) else (project_id,)

    def drop_token(self, project_id: str) -> None:
        """Log in anew when the project's token is needed next."""
        self._tokens.pop(project_id, None)

    def forget(self, project_id: str) -> None:
        """Drop what is kept for a project that is no longer watched."""
        if (renewal := self._renewals.get(project_id)) is not None:
            renewal.cancel()
        self._tokens.pop(project_id, None)
        self._plugins.pop(project_id, None)

    async def projects(self, stopwatch: Deadline) -> list[Project]:
        """The projects in which the user has a role, disabled ones included (`GET /v3/auth/projects`)."""
        token = await self.token(stopwatch=stopwatch)
        try:
            return await self._projects(token, stopwatch)
        except AnswerError as error:
            if error.status != 401:
                raise
            return await self._projects(await self.token(stopwatch=stopwatch, rejected=token), stopwatch)

    async def _projects(self, token: Token, stopwatch: Deadline) -> list[Project]:
        await self.admitted(stopwatch)
        assert self._region is not None
        base = str(self._region.config["auth"].get("auth_url", "")).rstrip("/")
        url = f"{base if base.endswith('/v3') else f'{base}/v3'}/auth/projects"

        def fetch() -> Any:
            # keystoneauth would renew a token by itself, and with other margins than ours.
            answer = self._session().get(
                url, authenticated=False, headers={"X-Auth-Token": token.value, "Accept": "application/json"}
            )
            if answer.status_code != 200:  # a redirect, which is not followed
                raise AnswerError(f"Keystone answered {answer.status_code}", api="identity", status=answer.status_code)
            return answer.json()

        body = await self._identity_call(fetch, "list of projects", stopwatch)
        try:
            return [
                Project(
                    str(each["id"]),
                    str(each["name"]),
                    str(each.get("domain_id")),
                    each.get("enabled") is not False,
                    each.get("description") == STACK_USER_PROJECT,
                )
                for each in body["projects"]
            ]
        except (TypeError, KeyError, AttributeError):
            raise DecodeError("the list of projects is not as documented", api="identity") from None

    # What follows runs at most once at a time for each scope.

    def _renewed(self, project_id: str | None, task: asyncio.Task[Token]) -> None:
        del self._renewals[project_id]
        if not task.cancelled():
            task.exception()  # whoever waited has it; nobody may have

    async def _renew(self, project_id: str | None, stopwatch: Deadline) -> Token:
        plugin = await self._plugin(project_id)
        await self.admitted(stopwatch)
        started = self._clock()

        def authenticate() -> Any:
            # Unlike get_access, this always asks for a new token; when to ask is decided here.
            return plugin.get_auth_ref(self._session())

        self.traffic.authentications += 1
        try:
            access = await self._identity_call(authenticate, "token", stopwatch)
        except AnswerError as error:
            assert self._region is not None
            if error.status != 404 or self._region.config.get("auth_type") not in ("token", "v3token"):
                raise
            # So Keystone answers to a token that has ended.
            raise AnswerError(f"{error}; a bare token can't be renewed", api="identity", status=401) from None
        try:
            life = (access.expires - access.issued).total_seconds()
            token = Token(
                value=access.auth_token,
                project_id=access.project_id or "",
                project_name=access.project_name or "",
                domain_name=access.project_domain_name or "",
                administrator=_is_administrator(access),
                endpoints={service: url for service in SERVICES if (url := self._endpoint(access, service))},
                renew_at=started + life - min(RENEWAL_MARGIN, life / 10),
            )
        except (TypeError, AttributeError, LookupError, ValueError) as error:
            raise DecodeError(f"the token is not as documented: {error!r}", api="identity") from None
        if project_id is not None and token.project_id != project_id:
            raise AnswerError(
                f"the credentials are bound to the project {token.project_name!r}", api="identity", status=403
            )
        if project_id is None:
            self.own_project = token.project_id
        for scope in self._alike(project_id):
            self._plugins.setdefault(scope, plugin)
            self._tokens[scope] = token
        return token

    def _endpoint(self, access: Any, service: Api) -> str:
        """Where the token's project has a service, from the catalog or the entry's override; "" where nowhere."""
        from keystoneauth1 import exceptions as ksa

        assert self._region is not None
        url: str | None = self._region.get_endpoint(service)
        if url is None:
            try:
                url = access.service_catalog.url_for(
                    service_type=service,
                    interface=self._region.get_interface(service),
                    region_name=self._region.get_region_name(service),
                )
            except ksa.CatalogException:
                return ""
        for name in ("project_id", "tenant_id"):
            for form in (f"%({name})s", f"$({name})s"):
                url = url.replace(form, access.project_id or "")
        return url.rstrip("/")

    def endpoint(self, token: Token, service: Api) -> str:
        """Where the token's project has a service; CatalogError where it has none."""
        if (url := token.endpoints.get(service)) is None:
            raise self.no_endpoint(service)
        return url

    def no_endpoint(self, service: Api) -> CatalogError:
        """What to raise where a project has no endpoint of a service, or none that can be used."""
        assert self._region is not None
        return CatalogError(
            f"the catalog has no {service} endpoint with interface {self._region.get_interface(service)!r}"
            f" in region {self._region.get_region_name(service) or 'any'!r}"
        )

    def _load(self) -> CloudRegion:
        from keystoneauth1 import exceptions as ksa
        from openstack import exceptions as sdk
        from openstack.config import OpenStackConfig

        try:
            config = OpenStackConfig(app_name="heat-deployment-exporter", app_version=__version__)
            region = config.get_one(cloud=self._entry) if self._entry else config.get_one()
            if region.get_auth() is None:
                raise ConfigError(f"cloud {self.name!r}: there are no credentials for it")
        except (sdk.ConfigException, sdk.SDKException, ksa.ClientException) as error:
            raise ConfigError(f"cloud {self.name!r}: {error}{self._hint()}") from None
        except OSError as error:
            raise ConfigError(f"cloud {self.name!r}: {error}") from None
        except (ValueError, TypeError, AttributeError) as error:
            # openstacksdk hands on what YAML's parser or a wrongly shaped file gives it.
            raise ConfigError(f"cloud {self.name!r}: its clouds.yaml can't be used: {error}") from None
        return region

    def _hint(self) -> str:
        if self._entry or any(key.startswith("OS_") for key in os.environ):
            return ""
        return " (set OS_CLOUD to an entry of clouds.yaml, or OS_AUTH_URL, OS_USERNAME, …)"

    def _session(self) -> Session:
        """The session of keystoneauth: one for the cloud, so that version discovery is shared."""
        if self._identity is None:
            from exporter.openstack.keystone import session_for

            assert self._region is not None
            verify, _ = self._region.get_requests_verify_args()
            self._identity = session_for(
                lambda: self._errands.current,
                verify=verify,
                app_name="heat-deployment-exporter",
                app_version=__version__,
            )
        return self._identity

    async def _plugin(self, project_id: str | None) -> Any:
        if (plugin := self._plugins.get(project_id)) is None:
            plugin = await run_blocking(lambda: self._make_plugin(project_id), name=f"auth-{self.name}")
            self._plugins[project_id] = plugin
        return plugin

    def _make_plugin(self, project_id: str | None) -> Any:
        region = self._region
        assert region is not None
        if project_id is None or self.bound_to_project:
            return region.get_auth()
        from keystoneauth1 import loading

        # The entry's own credentials with another scope.
        auth = copy.deepcopy(region.config["auth"])
        for key in [key for key in auth if key.startswith("project_") or key in _OTHER_SCOPES]:
            del auth[key]
        auth["project_id"] = project_id
        loader = loading.get_plugin_loader(region.config["auth_type"])
        known = {option.dest for option in loader.get_options()}
        return loader.load_from_options(**{key: value for key, value in auth.items() if key in known})

    async def _identity_call(self, call: Callable[[], Any], what: str, stopwatch: Deadline) -> Any:
        """What a blocking call of keystoneauth gives, in a thread; every failure is a RefreshError.

        The wait for its first request is over when it begins. It takes no longer than a refresh may: whoever began it
        may not wait for it any more.
        """
        limit = Deadline(self._timeout)

        async def admitted() -> None:
            with limit.paused():
                await self.admitted(stopwatch)

        errand = KeystoneTransport(
            what=what,
            silence=self._silence,
            client=self.client,
            counted=self.traffic.requests,
            admitted=admitted,
        )

        def run() -> Any:
            from exporter.openstack.keystone import identity_failure

            self._errands.current = errand
            try:
                return call()
            except Exception as error:
                raise identity_failure(error, errand) from None

        try:
            async with limit:
                return await run_blocking(run, name=f"identity-{self.name}")
        except TimeoutError:
            text = (
                f"can't get the {what} within refresh.timeout ({format_duration(self._timeout)}), which can be raised"
            )
            raise DeadlineError(f"{text} {RAISE}", api="identity") from None
        finally:
            errand.end()


def _is_administrator(access: Any) -> bool:
    """Whether Heat's default policy takes the token of keystoneauth's AccessInfo for an administrator's."""
    roles = {str(role).lower() for role in access.role_names or ()}
    return "admin" in roles and access.is_admin_project is not False


_OTHER_SCOPES: Final = frozenset(
    {"tenant_id", "tenant_name", "domain_id", "domain_name", "system_scope", "trust_id", "default_domain_id_scope"}
)
