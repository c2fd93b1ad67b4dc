"""The limits of API keys as a replica sees them: it asks the keeper."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from ray.exceptions import RayError
from ray.serve.handle import DeploymentHandle

from deploy.replicas.keeper import Admitted
from registry import Key
from serve.errors import RequestError, TooManyRequests, Unavailable

RENEW_SECONDS = 2.0
CALL_SECONDS = 30.0
"""For the keeper to answer; it may be starting."""
RETRY_SECONDS = 0.2


@dataclass(slots=True)
class KeptCharge:
    """The `Charge` of one request; what it took is told at its end."""

    headers: Mapping[str, str]
    tokens: float | None = None

    def charge(self, tokens: float) -> None:
        """Remember the tokens so far."""
        self.tokens = tokens


class KeptLimits:
    """The `KeyLimits` of a replica: asks the keeper. An asynchronous context manager."""

    def __init__(self, keeper: DeploymentHandle[Any], owner: str) -> None:
        self._keeper = keeper
        self._owner = owner
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Begin to tell the keeper that this replica lives."""
        self._begin(self._renew())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Tell it no more."""
        for task in self._tasks:
            task.cancel()

    @asynccontextmanager
    async def request(self, key: Key, estimate: float) -> AsyncIterator[KeptCharge]:
        """As `KeyLimits` says; a key without limits is not counted.

        Raises: TooManyRequests, Unavailable where the keeper does not answer.
        """
        limits = key.limits
        if all(limit is None for limit in limits.values()):
            yield KeptCharge({})
            return
        request, failed = uuid4().hex, False
        entering = asyncio.ensure_future(
            self._call("enter", self._owner, request, key.id, limits, estimate)
        )
        try:
            admitted: Admitted = await asyncio.shield(entering)
        except BaseException:  # the client has left: it may be admitted nevertheless
            self._begin(self._leave(request, None, failed=True, after=entering))
            raise
        if admitted.refused is not None:
            refusal = TooManyRequests(**admitted.refused)
            refusal.headers = dict(admitted.headers)
            raise refusal
        charge = KeptCharge(admitted.headers)
        try:
            yield charge
        except RequestError:
            failed = True
            raise
        finally:
            self._begin(self._leave(request, charge.tokens, failed))

    async def _leave(
        self,
        request: str,
        tokens: float | None,
        failed: bool,
        after: asyncio.Future[Admitted] | None = None,
    ) -> None:
        if after is not None:
            await asyncio.wait([after])
        with suppress(Unavailable):
            await self._call("leave", self._owner, request, tokens, failed)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _call(self, method: str, *arguments: Any) -> Any:
        """Call the keeper, a new one where the old one died meanwhile."""
        handle = getattr(self._keeper, method)
        with suppress(TimeoutError):
            async with asyncio.timeout(CALL_SECONDS):
                while True:
                    with suppress(RayError):
                        return await handle.remote(*arguments)
                    await asyncio.sleep(RETRY_SECONDS)
        raise Unavailable("The limits of API keys cannot be counted at the moment.")

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            with suppress(Unavailable):
                await self._call("renew", self._owner)
