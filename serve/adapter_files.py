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

logger = logging.getLogger(__name__)

_FETCHES = 8
"""At once: one that a store keeps waiting leaves room for those that the cache has."""


class AdapterFiles:
    """Fetches and checks in threads of its own. All methods run on the event loop."""

    def __init__(self, registry: Registry, base: Base, limits: Limits) -> None:
        self._registry = registry
        self._base = base
        self._limits = limits
        self._fetchers = ThreadPoolExecutor(_FETCHES, "fetch-adapter")
        self._verifiers = ThreadPoolExecutor(2, "verify-adapter")

    async def fetch(self, version: Version, held: ExitStack) -> None:
        """Have the files in `version.path`, as they were published, until `held` is closed.

        Raises: BadRequest where they are damaged, FilesUnavailable.
        """
        fetching = self._fetchers.submit(self._fetch, version, held)
        try:
            await asyncio.wrap_future(fetching)
        except asyncio.CancelledError:
            fetching.add_done_callback(lambda _: held.close())  # a thread cannot be cancelled
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


def _refused(version: Version, reason: str) -> BadRequest:
    return BadRequest(
        f"The adapter `{version.reference}` cannot be served: {reason}",
        param="model",
        code="adapter_refused",
    )
