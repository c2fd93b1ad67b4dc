"""The limits of API keys across replicas: one keeper counts, every replica asks it.

A request of a key with limits costs one call to the keeper before it and one after. Where the
keeper dies, Ray Serve starts another; that one begins with full buckets and no open requests, so
once for each death a key may use up to a minute's worth more, and its concurrency again.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from serve.errors import RequestError, TooManyRequests
from serve.limits import Grant, RateLimits

END_SECONDS = 0.25
"""An answer's end may reach a client so much sooner than the keeper: its next request waits."""
LEASE_SECONDS = 10.0
"""A replica not heard of for so long is dead: its requests are not open any more."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """The keeper's answer: `refused` has the arguments of the error, if it is one."""

    headers: Mapping[str, str]
    refused: Mapping[str, Any] | None = None


@dataclass(slots=True)
class _Owner:
    """A replica, and its open requests."""

    seen: float
    grants: dict[str, tuple[ExitStack, Grant]] = field(default_factory=dict)


class Keeper:
    """A Ray Serve deployment of a single replica around `RateLimits`."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._limits = RateLimits(clock=clock)
        self._owners: dict[str, _Owner] = {}
        self._left = asyncio.Condition()

    async def enter(
        self, owner: str, request: str, key_id: str, limits: Mapping[str, int | None], tokens: float
    ) -> Admitted:
        """Admit one request of a key."""
        self._forget_the_dead()
        who = self._owner(owner)
        now = asyncio.get_running_loop().time
        deadline = now() + END_SECONDS
        while True:
            stack = ExitStack()
            try:
                entered = self._limits.enter(key_id, **limits, estimate=tokens)
                grant = stack.enter_context(entered)
            except TooManyRequests as error:
                left = deadline - now()
                if error.refusal == "concurrency" and left > 0 and await self._some_left(left):
                    continue
                return _refused(error)
            who.grants[request] = (stack, grant)
            return Admitted(dict(grant.headers))

    async def leave(self, owner: str, request: str, tokens: float | None, failed: bool) -> None:
        """End a request that took so many tokens; None where nothing was charged."""
        stack, grant = self._owner(owner).grants.pop(request, (None, None))
        if stack is None or grant is None:
            return  # of a keeper before this one
        if tokens is not None:
            grant.charge(tokens)
        _close(stack, failed)
        async with self._left:
            self._left.notify_all()

    def renew(self, owner: str) -> None:
        """Hear that a replica lives."""
        self._owner(owner)

    def _owner(self, name: str) -> _Owner:
        who = self._owners.setdefault(name, _Owner(0.0))
        who.seen = self._clock()
        return who

    async def _some_left(self, seconds: float) -> bool:
        """Wait until some request has ended; False where none did."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._left:
                return await self._left.wait()
        return False

    def _forget_the_dead(self) -> None:
        now = self._clock()
        for name in [it for it, who in self._owners.items() if now - who.seen > LEASE_SECONDS]:
            for stack, _ in self._owners.pop(name).grants.values():
                _close(stack, failed=True)


def _close(stack: ExitStack, failed: bool) -> None:
    """Leave the context of `RateLimits.enter`; one that failed gives back what nothing took."""
    error = RequestError("it failed") if failed else None
    stack.__exit__(type(error) if error else None, error, None)


def _refused(error: TooManyRequests) -> Admitted:
    told = {"message": error.message, "remedy": error.remedy, "code": error.code}
    return Admitted(
        error.headers, told | {"retry_after": error.retry_after, "refusal": error.refusal}
    )
