"""An adapter's files before the engine hears of them: brought here, held, and checked."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from registry import (
    Base,
    DiskFull,
    Limits,
    LorikeetError,
    Registry,
    RegistryUnavailable,
    Version,
    check_adapter,
)
from serve.errors import BadRequest, FilesUnavailable
from serve.registry_link import in_thread

logger = logging.getLogger(__name__)


class AdapterFiles:
    """Fetches and checks in threads of its own. All methods run on the event loop.

    A version has one fetch at a time, which nobody's end waits for: a store that hangs keeps
    neither other versions nor the process.
    """

    def __init__(self, registry: Registry, base: Base, limits: Limits) -> None:
        self._registry = registry
        self._base = base
        self._limits = limits
        self._fetching: dict[Path, asyncio.Task[Path]] = {}
        self._verifiers = ThreadPoolExecutor(2, "verify-adapter")

    async def fetch(self, version: Version, held: ExitStack) -> None:
        """Have the files in `version.path`, as they were published, until `held` is closed.

        Raises: BadRequest where they are damaged, FilesUnavailable.
        """
        while (before := self._fetching.get(version.path)) is not None:
            await asyncio.wait([before])
        fetching = asyncio.create_task(in_thread(self._fetch, version, held))
        self._fetching[version.path] = fetching
        fetching.add_done_callback(lambda _: self._fetching.pop(version.path, None))
        try:
            await asyncio.shield(fetching)
        except asyncio.CancelledError:
            fetching.add_done_callback(lambda done: _let_go(done, held))  # a thread goes on
            raise
        except (RegistryUnavailable, DiskFull) as error:
            logger.error("%s cannot be fetched: %s (%s)", version.reference, error, error.remedy)
            raise FilesUnavailable(
                f"The adapter `{version.reference}` cannot be fetched now; try again in a moment.",
                code="adapter_unavailable",
            ) from error
        except LorikeetError as error:
            raise _refused(version, error.message) from error

    async def check(self, version: Version) -> None:
        """Everything else that could hurt the engine; it warms the page cache too.

        Raises: BadRequest.
        """
        loop = asyncio.get_running_loop()
        problems = await loop.run_in_executor(
            self._verifiers, check_adapter, version.path, self._base, self._limits
        )
        errors = [problem for problem in problems if problem.severity == "error"]
        if errors:
            raise _refused(version, "; ".join(f"{p.message} ({p.remedy})" for p in errors))

    def _fetch(self, version: Version, held: ExitStack) -> Path:
        return held.enter_context(self._registry.fetch(version))


def _let_go(fetched: asyncio.Task[Path], held: ExitStack) -> None:
    """Nobody waits for it any more."""
    if not fetched.cancelled():
        fetched.exception()
    held.close()


def _refused(version: Version, reason: str) -> BadRequest:
    return BadRequest(
        f"The adapter `{version.reference}` cannot be served: {reason}",
        param="model",
        code="adapter_refused",
    )
