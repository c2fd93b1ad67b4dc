"""Versions that could not be loaded: kept from the engine, for longer with each failure.

What fails while it is served is quarantined in the registry, for every server and until an operator
releases it; until that is recorded, it is held here.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from serve.errors import FilesUnavailable, RequestError

FIRST_SECONDS = 5.0
LONGEST_SECONDS = 600.0
REMEMBERED = 1024


@dataclass(slots=True)
class _Failure:
    error: RequestError
    until: float
    seconds: float


class Quarantine:
    """Remembers failed loads by the engine's name of the version."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, _Failure] = OrderedDict()
        self._held: dict[str, RequestError] = {}

    def hold(self, name: str, error: RequestError) -> bool:
        """Keep a version away until `let_go`; whether it was not held before."""
        return self._held.setdefault(name, error) is error

    def let_go(self, name: str) -> None:
        """Hold it no more."""
        self._held.pop(name, None)

    def check(self, name: str) -> None:
        """Raises: the error of the last failure, until it is time to try again."""
        if (error := self._held.get(name)) is not None:
            raise error.with_traceback(None)
        failure = self._failures.get(name)
        if failure is not None and self._clock() < failure.until:
            raise failure.error.with_traceback(None)

    def failed(self, name: str, error: RequestError) -> None:
        """Keep the version away for 5 s, twice as long with each failure, 10 minutes at most.

        Where its files cannot be had it is no longer than 5 s: that is not its fault.
        """
        before = self._failures.pop(name, None)
        longest = FIRST_SECONDS if isinstance(error, FilesUnavailable) else LONGEST_SECONDS
        seconds = min(longest, before.seconds * 2) if before else FIRST_SECONDS
        self._failures[name] = _Failure(error, self._clock() + seconds, seconds)
        if len(self._failures) > REMEMBERED:
            self._failures.popitem(last=False)

    def clear(self, name: str) -> None:
        """Forget what was: the version is loaded, or somebody asks for a new try."""
        self._failures.pop(name, None)

    def reason(self, name: str) -> str | None:
        """Why the version is kept away now, None where it is not."""
        if (error := self._held.get(name)) is not None:
            return error.message
        failure = self._failures.get(name)
        return failure.error.message if failure and self._clock() < failure.until else None
