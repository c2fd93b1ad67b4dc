"""Keeps the engine running: starts it, notices its death or its silence, starts it again.

    starting ──► up ──► down ──► up …
        └──► failed (the first start went wrong: the process ends)

The first new start is made at once; before the next ones it waits 1, 3, 7, … seconds, a minute
at most.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Literal

from serve.engine import Engine
from serve.errors import EngineFailed, RequestError
from serve.metrics import Metrics

logger = logging.getLogger(__name__)

State = Literal["starting", "up", "down", "failed", "stopped"]
LOOK_SECONDS = 0.25
MAX_BACKOFF_SECONDS = 60.0
CALM_SECONDS = 300.0
"""Up for so long, the engine's next death is the first again."""
HOPELESS = 5
"""Starts in a row that went wrong, after which only a new process may help."""


class Supervisor:
    """Owns the engine's life; `on_down` and `on_up` hear of every change but the first start."""

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        *,
        ping_seconds: float,
        hang_seconds: float,
        on_down: Callable[[str], None],
        on_up: Callable[[], Awaitable[None]],
    ) -> None:
        self.state: State = "starting"
        self.failure: Exception | None = None
        self._engine = engine
        self._metrics = metrics
        self._ping_seconds = ping_seconds
        self._hang_seconds = hang_seconds
        self._on_down = on_down
        self._on_up = on_up
        self._failures = 0
        self._sick: str | None = None
        self._settled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to start the engine."""
        self._metrics.engine_starting.set(1)
        self._task = asyncio.create_task(self._run())

    async def wait_started(self) -> None:
        """Return when the engine has started for the first time.

        Raises: what its start raised.
        """
        await self._settled.wait()
        if self.failure is not None:
            raise self.failure

    async def stop(self) -> None:
        """Stop the engine and watch it no more; idempotent."""
        task, self._task = self._task, None
        self.state = "stopped"
        if task is not None:
            if self._settled.is_set():
                task.cancel()
            # A start cannot be interrupted: it polls in a thread.
            await asyncio.gather(task, return_exceptions=True)
        await self._engine.stop()

    def restart(self, reason: str) -> None:
        """Have the engine started anew, because its answers are wrong."""
        self._sick = reason

    @property
    def hopeless(self) -> bool:
        """Whether the engine will not come up by itself."""
        return self.state == "failed" or (self.state == "down" and self._failures >= HOPELESS)

    async def _run(self) -> None:
        try:
            await self._engine.start()
        except Exception as error:
            self.state, self.failure = "failed", error
            logger.error("%s", error)
            return
        finally:
            self._metrics.engine_starting.set(0)
            self._settled.set()
        while self.state != "stopped":
            self.state = "up"
            up_since = time.monotonic()
            reason = await self._until_down()
            self.state = "down"
            logger.error("the engine is down: %s; starting it again", reason)
            self._on_down(reason)
            if time.monotonic() - up_since > CALM_SECONDS:
                self._failures = 0
            await self._bring_up()
            self._metrics.engine_restarts.inc()
            logger.warning("the engine is up again")
            await self._on_up()

    async def _until_down(self) -> str:
        """Return the reason when the engine is dead, silent or sick."""
        ping: asyncio.Task[None] | None = None
        sent = time.monotonic()
        try:
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                if not self._engine.alive:
                    return "its process has died"
                if self._sick is not None:
                    reason, self._sick = self._sick, None
                    return reason
                waited = time.monotonic() - sent
                if ping is None and waited >= self._ping_seconds:
                    ping, sent = asyncio.create_task(self._ping()), time.monotonic()
                elif ping is not None and ping.done():
                    ping = None
                elif ping is not None and waited >= self._hang_seconds:
                    return f"it has not answered for {waited:.0f} s"
        finally:
            if ping is not None:
                ping.cancel()

    async def _ping(self) -> None:
        with contextlib.suppress(RequestError):  # its death is seen by `alive`
            await self._engine.ping()

    def _backoff(self) -> float:
        """Seconds before the next start: 0, 1, 3, 7, … as failures follow each other."""
        return min(MAX_BACKOFF_SECONDS, 2.0 ** min(self._failures, 16) - 1)

    async def _bring_up(self) -> None:
        while True:
            try:
                await self._engine.stop()
                await asyncio.sleep(self._backoff())
                self._failures += 1
                await self._engine.start()
            except EngineFailed as error:
                logger.error("%s", error)
            except Exception:  # nobody else would start it again
                self._failures += 1
                logger.exception("an error while the engine was started again")
            else:
                return
