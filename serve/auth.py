"""Who asks: API keys, checked on the raw ASGI path before anything else sees the request.

Deny by default: every path but `/health` and `/ready` needs a valid key once a key was ever made.
Before that the server is open, which `lorikeet serve` allows on loopback only.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from registry import Key, Keys
from serve.errors import Forbidden, RequestError, Unauthorized
from serve.middleware import refuse

OPEN_PATHS = frozenset({"/health", "/ready"})
DEFAULT_TENANT = "default"
CACHE_SECONDS = 1.0
"""How long a key may be used after it was revoked."""
CACHED_KEYS = 4096


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
    """Turns the Authorization header into a Principal; a key's fate is known within a second."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._closed = False
        self._closed_at = float("-inf")
        # By the SHA-256 of what was presented: the time of a look-up tells nothing of a real key.
        self._known: OrderedDict[bytes, tuple[float, Key | None]] = OrderedDict()

    async def principal(self, authorization: str) -> Principal:
        """The caller behind an Authorization header, "" for none.

        Raises: Unauthorized.
        """
        scheme, _, secret = authorization.strip().partition(" ")
        secret = secret.strip()
        if not await self._keys_exist():
            return ANONYMOUS
        if scheme.lower() != "bearer" or not secret:
            raise Unauthorized(
                "You didn't provide an API key: send it as `Authorization: Bearer KEY`.",
                code="invalid_api_key",
            )
        key = await self._key(secret)
        if key is None:
            raise Unauthorized("Incorrect API key provided.", code="invalid_api_key")
        return Principal(key.tenant, key)

    async def _keys_exist(self) -> bool:
        now = time.monotonic()
        if not self._closed and now - self._closed_at > CACHE_SECONDS:
            self._closed = await asyncio.to_thread(self._keys.exist)
            self._closed_at = now
        return self._closed

    async def _key(self, secret: str) -> Key | None:
        digest, now = hashlib.sha256(secret.encode()).digest(), time.monotonic()
        at, key = self._known.get(digest, (float("-inf"), None))
        if now - at > CACHE_SECONDS:
            key = await asyncio.to_thread(self._keys.find, secret)
            self._known[digest] = (now, key)
            self._known.move_to_end(digest)
            if len(self._known) > CACHED_KEYS:
                self._known.popitem(last=False)
        return key


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
