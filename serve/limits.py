"""Limits of an API key: requests and tokens a minute, and requests at the same time.

Token buckets that refill continuously and hold a minute's worth. The tokens of a request are known
when it ends, so they are settled afterwards and may leave a debt that the next request waits for;
that is why this is not the `limits` package, whose hits cannot be settled.
"""

import itertools
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from registry import Key
from serve.errors import Refusal, RequestError, TooManyRequests

MINUTE = 60.0
ROUNDING = 1e-6
"""What sums of floating-point numbers may be off."""


class Charge(Protocol):
    """A request within its key's limits. `headers` say what was left when it was admitted."""

    @property
    def headers(self) -> Mapping[str, str]: ...

    def charge(self, tokens: float) -> None:
        """The tokens, of prompt and output, that it took so far, instead of the estimate."""


class KeyLimits(Protocol):
    """What counts the use of keys: `RateLimits` for one server, or one count for many."""

    def request(self, key: Key, estimate: float) -> AbstractAsyncContextManager[Charge]:
        """Admit one request of a key; `estimate` is in tokens, as `RateLimits.enter` has it.

        Raises: TooManyRequests.
        """


@contextmanager
def before_generation(charge: Charge | None) -> Iterator[None]:
    """What ends inside, be it that the client has left the queue, has taken no tokens."""
    try:
        yield
    except BaseException:
        if charge is not None:
            charge.charge(0)
        raise


@dataclass(slots=True)
class _Bucket:
    """What is left of a minute's worth; below zero it is a debt."""

    kind: str
    short: str
    limit: int | None = None
    left: float = 0.0
    updated: float = 0.0

    def refill(self, limit: int | None, now: float) -> None:
        """Bring it up to `now` (seconds) under a limit that may be new; None is none."""
        if limit is not None:
            if self.limit is None:
                self.left = limit
            else:
                self.left += (now - self.updated) * limit / MINUTE
                self.left = min(limit, self.left)
        self.limit, self.updated = limit, now

    def wait(self, amount: float) -> float:
        """Seconds until `amount` is there; what is more than a minute's worth waits for all."""
        if self.limit is None:
            return 0.0
        if self.limit <= 0:  # nothing is ever there
            return MINUTE
        missing = min(amount, self.limit) - self.left
        return missing * MINUTE / self.limit if missing > ROUNDING else 0.0

    def full(self, now: float) -> bool:
        """Whether a new one would be no different."""
        if self.limit is None:
            return True
        return self.left + (now - self.updated) * self.limit / MINUTE >= self.limit - ROUNDING

    def headers(self) -> dict[str, str]:
        """`x-ratelimit-limit-…`, `-remaining-…` and `-reset-…`, which is when it is full."""
        if self.limit is None:
            return {}
        return {
            f"x-ratelimit-limit-{self.kind}": str(self.limit),
            f"x-ratelimit-remaining-{self.kind}": str(max(0, math.floor(self.left + ROUNDING))),
            f"x-ratelimit-reset-{self.kind}": duration(self.wait(self.limit)),
        }


@dataclass(slots=True)
class _Usage:
    """Of one key."""

    requests: _Bucket = field(default_factory=lambda: _Bucket("requests", "RPM"))
    tokens: _Bucket = field(default_factory=lambda: _Bucket("tokens", "TPM"))
    open: int = 0

    def forgettable(self, now: float) -> bool:
        return not self.open and self.requests.full(now) and self.tokens.full(now)


class Grant:
    """The `Charge` of one request."""

    def __init__(self, tokens: _Bucket, estimate: float, headers: dict[str, str]) -> None:
        self.headers = headers
        self._bucket = tokens
        self._paid = estimate
        self.charged = False

    def charge(self, tokens: float) -> None:
        """As `Charge` says."""
        self._bucket.left -= tokens - self._paid
        self._paid = tokens
        self.charged = True


class RateLimits:
    """Counts what keys use. `clock` is monotonic, in seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._usage: OrderedDict[str, _Usage] = OrderedDict()

    @asynccontextmanager
    async def request(self, key: Key, estimate: float) -> AsyncIterator[Grant]:
        """As `KeyLimits` says."""
        with self.enter(key.id, **key.limits, estimate=estimate) as grant:
            yield grant

    @contextmanager
    def enter(
        self,
        key_id: str,
        *,
        rpm: int | None,
        tpm: int | None,
        concurrency: int | None,
        estimate: float = 0,
    ) -> Iterator[Grant]:
        """Admit one request of a key; None is no limit.

        `estimate` is set aside of the tokens until they are charged. A request that ends in an
        error before anything was charged gives it back.
        Raises: TooManyRequests, with the headers that a grant has.
        """
        usage = self._now(key_id, rpm, tpm)
        self._check(key_id, usage, concurrency, estimate)
        usage.open += 1
        usage.requests.left -= 1
        usage.tokens.left -= estimate
        grant = Grant(usage.tokens, estimate, usage.requests.headers() | usage.tokens.headers())
        try:
            yield grant
        except RequestError:
            if not grant.charged:
                grant.charge(0)
            raise
        finally:
            usage.open -= 1

    def _now(self, key_id: str, rpm: int | None, tpm: int | None) -> _Usage:
        now = self._clock()
        self._forget_some(now)
        usage = self._usage.setdefault(key_id, _Usage())
        self._usage.move_to_end(key_id)
        usage.requests.refill(rpm, now)
        usage.tokens.refill(tpm, now)
        return usage

    def _check(self, key_id: str, usage: _Usage, concurrency: int | None, estimate: float) -> None:
        if concurrency is not None and usage.open >= concurrency:
            raise self._refusal(
                usage,
                f"Concurrency limit reached for the key {key_id}: Limit {concurrency}, "
                f"Used {usage.open}, Requested 1.",
                TooManyRequests.retry_after or 1.0,
                "concurrency",
            )
        for bucket, amount in ((usage.requests, 1.0), (usage.tokens, max(1.0, estimate))):
            if (seconds := bucket.wait(amount)) > 0:
                raise self._refusal(
                    usage,
                    f"Rate limit reached for the key {key_id} on {bucket.kind} per min "
                    f"({bucket.short}): Limit {bucket.limit}, "
                    f"Used {math.ceil((bucket.limit or 0) - bucket.left)}, "
                    f"Requested {math.ceil(amount)}.",
                    seconds,
                    "rate_limit" if bucket is usage.requests else "token_limit",
                )

    def _refusal(
        self, usage: _Usage, message: str, seconds: float, refusal: Refusal
    ) -> TooManyRequests:
        error = TooManyRequests(
            message,
            remedy=f"Please try again in {duration(seconds)}.",
            code="rate_limit_exceeded",
            retry_after=math.ceil(seconds),
            refusal=refusal,
        )
        error.headers = usage.requests.headers() | usage.tokens.headers()
        return error

    def _forget_some(self, now: float) -> None:
        """Look at two keys, the longest not looked at: one more than comes with each request."""
        for key_id in list(itertools.islice(self._usage, 2)):
            if self._usage[key_id].forgettable(now):
                del self._usage[key_id]
            else:
                self._usage.move_to_end(key_id)


def duration(seconds: float) -> str:
    """As OpenAI writes it, rounded up: `20ms`, `1s`, `6m0s`, `1h0m0s`."""
    if 0 < seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
