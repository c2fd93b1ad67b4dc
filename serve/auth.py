"""Who asks: API keys, checked on the raw ASGI path before anything else sees the request.

Deny by default: every path but `/health` and `/ready` needs a valid key once a key was ever made.
Before that the server is open, which `lorikeet serve` allows on loopback only.
"""

from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from registry import Key, Keys, UsageError
from serve.errors import Forbidden, RegistryAway, RequestError, Unauthorized
from serve.middleware import refuse
from serve.registry_link import RegistryLink
from serve.settings import ServeSettings

OPEN_PATHS = frozenset({"/health", "/ready"})
DEFAULT_TENANT = "default"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request is from; `key` is None where the server is open."""

    tenant: str
    key: Key | None = None

    @property
    def admin(self) -> bool:
        """Whether `/admin` may be used; never without a key."""
        return self.key is not None and self.key.admin

    def sees(self, adapter: str, owner: str | None) -> bool:
        """Whether the adapter of that name exists, as far as this caller is concerned.

        One with an `owner` is for the keys of that tenant, for those that name it, and for admins.
        """
        if self.key is None:
            return True
        if self.key.adapters is not None:
            return adapter in self.key.adapters
        return owner is None or owner == self.tenant or self.admin

    def owns(self, tenant: str) -> bool:
        """Whether it may do away with what is that tenant's."""
        limited = self.key is not None and self.key.adapters is not None
        return self.admin or (tenant == self.tenant and not limited)

    @property
    def reach(self) -> str | None:
        """The tenant whose own adapters are all that it sees of such; None: those of others too."""
        limited = self.key is not None and self.key.adapters is not None
        return None if self.key is None or self.admin or limited else self.tenant

    def require_admin(self) -> None:
        """Raises: Unauthorized without a key, Forbidden with another one."""
        if self.key is None:
            raise Unauthorized(
                "An admin key is needed: make one with `lorikeet keys create --tenant NAME "
                "--admin` and send it as `Authorization: Bearer KEY`.",
                code="invalid_api_key",
            )
        if not self.key.admin:
            raise Forbidden("This key is not an admin key.", code="admin_key_required")


ANONYMOUS = Principal(DEFAULT_TENANT)


class Authenticator:
    """Turns the Authorization header into a Principal; a key's fate is known within a second.

    While the registry is away it is not: after `stale_seconds` of that no key is believed any more.
    """

    def __init__(self, link: RegistryLink, stale_seconds: float) -> None:
        self._link = link
        self._stale_seconds = stale_seconds

    @property
    def believes_keys(self) -> bool:
        """Whether what is known of keys is new enough, or there is none to be known."""
        if not self._link.knows:
            return False
        away = self._link.away_seconds
        return away is None or away <= self._stale_seconds or not self._link.known.has_keys

    async def principal(self, authorization: str) -> Principal:
        """The caller behind an Authorization header, "" for none.

        Raises: Unauthorized, RegistryAway.
        """
        scheme, _, secret = authorization.strip().partition(" ")
        secret = secret.strip()
        known = self._link.known
        if secret and known.key(secret) is None:  # it may have been made just now
            known = await self._link.fresh()
        if not known.has_keys:
            return ANONYMOUS
        if scheme.lower() != "bearer" or not secret:
            raise Unauthorized(
                "You didn't provide an API key: send it as `Authorization: Bearer KEY`.",
                code="invalid_api_key",
            )
        if not self.believes_keys:
            raise RegistryAway("The registry has been away for too long to tell whose key that is.")
        key = known.key(secret)
        if key is None:
            raise Unauthorized("Incorrect API key provided.", code="invalid_api_key")
        return Principal(key.tenant, key)


def check_reach(settings: ServeSettings, keys: Keys) -> None:
    """Raises: UsageError where other machines could use a server that asks nobody for a key."""
    if not (settings.loopback or settings.insecure or keys.exist()):
        raise UsageError(
            f"--host {settings.host} can be reached from other machines, and there are no keys",
            remedy="make one (lorikeet keys create --tenant NAME), or say --insecure",
        )


class AuthMiddleware:
    """Puts the caller into `scope["state"]["principal"]`, or answers 401."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self.app = app
        self.authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is from a known caller; nothing but HTTP is served."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["path"] not in OPEN_PATHS:
            headers = [value for name, value in scope["headers"] if name == b"authorization"]
            try:
                if len(headers) > 1:
                    raise Unauthorized("Send one Authorization header.", code="invalid_api_key")
                presented = headers[0].decode("latin-1") if headers else ""
                principal = await self.authenticator.principal(presented)
            except RequestError as error:
                await refuse(error, scope, receive, send)
                return
            scope.setdefault("state", {})["principal"] = principal
        await self.app(scope, receive, send)
