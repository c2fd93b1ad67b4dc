"""What the metrics say of the registry and of the disk, looked up beside the server's loop.

A database that is slow or away never holds up a scrape: then it is told what was known before.
"""

import asyncio
import logging
import shutil
import time
from dataclasses import dataclass, replace

from registry import Base, LorikeetError, Registry, Standing
from serve.registry_link import RegistryLink, in_thread

logger = logging.getLogger(__name__)

FRESH_SECONDS = 4.0
"""How long an answer is good for."""
WAIT_SECONDS = 0.5
"""The most that a scrape waits for a new one."""


@dataclass(frozen=True)
class Sight:
    """What was seen at `at`, in seconds by the monotonic clock. None: it could not be seen yet."""

    standing: Standing | None = None
    at: float = 0.0
    disk: tuple[int, int] | None = None
    """Free bytes and all bytes of the data folder's disk."""


class RegistryWatch:
    """Looks when it is asked to, at most once in FRESH_SECONDS and one look at a time."""

    def __init__(self, registry: Registry, link: RegistryLink, base: Base) -> None:
        self._registry = registry
        self._link = link
        self._base = base
        self._sight = Sight()
        self._looked = float("-inf")
        self._looking: asyncio.Task[None] | None = None
        self._clear = True

    async def sight(self) -> Sight:
        """The newest that can be had soon."""
        if self._looking is None and time.monotonic() - self._looked > FRESH_SECONDS:
            self._looking = asyncio.create_task(self._look())
        if self._looking is not None:
            await asyncio.wait([self._looking], timeout=WAIT_SECONDS)
        return self._sight

    async def _look(self) -> None:
        try:
            self._sight = replace(self._sight, disk=await in_thread(self._disk))
            standing = await self._link.call(self._registry.standings.of, self._base.digest)
            self._sight = replace(self._sight, standing=standing, at=time.monotonic())
            self._clear = True
        except Exception as error:  # nothing of it is worth a scrape
            if self._clear:
                known = isinstance(error, LorikeetError | OSError)
                text = "the registry cannot be read for the metrics: %s"
                logger.warning(text, error, exc_info=None if known else error)
            self._clear = False
        finally:
            self._looked, self._looking = time.monotonic(), None

    def _disk(self) -> tuple[int, int]:
        usage = shutil.disk_usage(self._registry.settings.home)
        return usage.free, usage.total
