"""The server's tie to the registry: what it says now, and what it last said while it is away.

A request waits for the database for a moment at most. While that does not answer, names, aliases
and keys are those that it last told; what only the database can do is refused. No call that hangs
holds up the loop, another call or the end of the process.
"""

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from typing import Any, ParamSpec, TypeVar

from registry import (
    DiskFull,
    LorikeetError,
    Mirror,
    Registry,
    RegistryUnavailable,
    StoreUnavailable,
    migrations,
)
from serve.errors import RegistryAway

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""How often the database is asked for what has changed, beside the requests that ask for it."""
WAIT_SECONDS = 0.5
"""The most that a request waits for the answer."""
START_SECONDS = 30.0
"""The most that the server's start waits for it."""
HANG_SECONDS = 2.0
"""The database is away when it owes an answer for so long."""
PATIENCE_SECONDS = 10.0
"""How long a call goes on waiting for a database that went away meanwhile."""
CHECK_SECONDS = 0.5
STORE_SECONDS = 5.0
"""How often the shared store is asked for a sign of life."""
STORE_HANG_SECONDS = 15.0
"""The store is away when it owes an answer for so long: a hung mount never gives one."""
_SILENT = StoreUnavailable(
    "it does not answer", remedy="check the store and the way to it, a mount that hangs for one"
)
LATER_TABLES = "up, with the tables of a later version: upgrade this server too"

P = ParamSpec("P")
T = TypeVar("T")


class RegistryLink:
    """Keeps a mirror of the registry. All methods run on the event loop."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._mirror = registry.mirror()
        self._answers = True
        self._answered_at = time.monotonic()  # of the last good look, when it began
        self._looking_since: float | None = None
        self._one_look_at_a_time = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._following: list[asyncio.Task[None]] = []
        self._told_later = False
        self._store_silent_since: datetime | None = None

    async def start(self) -> None:
        """Read the registry, and follow it until `stop`."""
        await asyncio.wait([self._look()], timeout=START_SECONDS)
        self._following = [
            asyncio.create_task(self._follow()),
            asyncio.create_task(self._follow_store()),
        ]

    async def stop(self) -> None:
        """Follow it no more."""
        for following in self._following:
            following.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=WAIT_SECONDS)
        for task in self._tasks:
            task.cancel()

    @property
    def away_seconds(self) -> float | None:
        """Since the registry last answered; None while it does."""
        return None if self._answers else time.monotonic() - self._answered_at

    @property
    def knows(self) -> bool:
        """Whether the registry was ever seen."""
        return self._mirror.read_once

    @property
    def known(self) -> Mirror:
        """The registry as it was last seen. Raises: RegistryAway before the first time."""
        if not self.knows:
            raise RegistryAway("The registry has not been read yet.")
        return self._mirror

    async def fresh(self) -> Mirror:
        """The registry as it is now; as it was last seen where it does not answer soon.

        Raises: RegistryAway before the first time.
        """
        if self._answers:
            look = self._look()
            waited = time.monotonic() - (self._looking_since or time.monotonic())
            await asyncio.wait([look], timeout=max(0.0, WAIT_SECONDS - waited))
        return self.known

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The registry's answer to a call. Raises what it raises; RegistryAway while it is away."""
        self._require(0.0)
        answer = asyncio.create_task(in_thread(function, *args, **kwargs))
        answer.add_done_callback(_seen)
        while not answer.done():
            await asyncio.wait([answer], timeout=CHECK_SECONDS)
            if not answer.done():
                self._require(PATIENCE_SECONDS)
        return answer.result()

    async def record(self, function: Callable[[], Any], then: Callable[[], None]) -> None:
        """Make a call soon, or once the registry is back; `then` follows when it is seen here.

        The log has what the registry refuses.
        """

        async def insist() -> None:
            while True:
                try:
                    await self.call(function)
                except (RegistryAway, RegistryUnavailable, DiskFull):
                    await asyncio.sleep(LOOK_SECONDS)
                except LorikeetError as error:
                    logger.error("%s", error)
                    return
                else:
                    break
            made = time.monotonic()
            while self._answered_at < made:
                await self._look()
                await asyncio.sleep(0.0 if self._answers else LOOK_SECONDS)
            then()

        call = self._keep(asyncio.create_task(insist()))
        await asyncio.wait([call], timeout=WAIT_SECONDS)

    @property
    def store_away_since(self) -> datetime | None:
        """Since when the store of adapters and files has not answered; None while it does."""
        return self._registry.store_away_since or self._store_silent_since

    def status(self) -> dict[str, str]:
        """Of `registry` and `store`, in words: for whoever keeps the server running."""
        away, store = self.away_seconds, self.store_away_since
        registry = LATER_TABLES if self._is_later() else "up"
        if away is not None:
            registry = _since(datetime.now(UTC) - timedelta(seconds=away))
        return {"registry": registry, "store": "up" if store is None else _since(store)}

    def _require(self, seconds: float) -> None:
        away = self.away_seconds
        if away is not None and away > seconds:
            raise RegistryAway("The registry is away at the moment.")

    def _look(self) -> asyncio.Task[None]:
        """A look at the database that begins from now on; who asks before it does shares it."""
        if self._next is None:
            look = asyncio.create_task(self._see(), context=contextvars.Context())  # nobody's own
            self._next = self._keep(look)
        return self._next

    async def _see(self) -> None:
        async with self._one_look_at_a_time:
            began = time.monotonic()
            self._next, self._looking_since = None, began
            try:
                news = await in_thread(self._mirror.read)
            except Exception as error:  # nobody else would look again
                self._missed(error)
            else:
                self._mirror.take(news)
                self._met(began)
            finally:
                self._looking_since = None

    def _missed(self, error: Exception) -> None:
        if self._answers:
            known = isinstance(error, LorikeetError)
            logger.error(
                "the registry is away, what it last said stays true: %s",
                error,
                exc_info=None if known else error,
            )
        self._answers = False
        self._mirror.doubt()

    def _met(self, at: float) -> None:
        if not self._answers:
            logger.warning("the registry is back after %.1f s", at - self._answered_at)
        if self._is_later() and not self._told_later:
            logger.warning("the registry is %s", LATER_TABLES)
        self._answers, self._answered_at, self._told_later = True, at, self._is_later()

    def _is_later(self) -> bool:
        """Whether a later Lorikeet has brought the tables further than this one knows them."""
        return self._mirror.revision != migrations.HEAD

    async def _follow(self) -> None:
        while True:
            done, _ = await asyncio.wait([self._look()], timeout=HANG_SECONDS)
            if not done:
                self._missed(RegistryUnavailable("the database does not answer"))
            await asyncio.sleep(LOOK_SECONDS)

    async def _follow_store(self) -> None:
        told = False
        while True:
            asked, asking = datetime.now(UTC), asyncio.create_task(self._ask_store())
            await asyncio.wait([asking], timeout=STORE_HANG_SECONDS)
            why = asking.result() if asking.done() else _SILENT
            self._store_silent_since = None if why is None else self._store_silent_since or asked
            if why is None and told:
                logger.warning("the store is back")
            elif why is not None and not told:
                remedy = f" ({why.remedy})" if isinstance(why, LorikeetError) else ""
                since = _since(self.store_away_since or asked)
                logger.error(
                    "the store is %s: %s%s", since, why, remedy, exc_info=None if remedy else why
                )
            told = why is not None
            await asking
            await asyncio.sleep(STORE_SECONDS)

    async def _ask_store(self) -> Exception | None:
        """Why the store does not answer, a defect of ours too; None where it does."""
        try:
            await in_thread(self._registry.ask_store)
        except Exception as error:
            return error
        return None

    def _keep(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of a call that may hang, from a thread of its own that nobody has to wait for."""
    result: Future[T] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        if not result.set_running_or_notify_cancel():
            return
        try:
            result.set_result(context.run(function, *args, **kwargs))
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, name="registry", daemon=True).start()
    return await asyncio.wrap_future(result)


def _since(moment: datetime) -> str:
    return f"away since {moment:%Y-%m-%dT%H:%M:%SZ}"


def _seen(answer: asyncio.Task[Any]) -> None:
    """Whoever asked may have gone meanwhile: then nobody else looks at the error."""
    if not answer.cancelled():
        answer.exception()
