"""The hours in which a machine may train, in its local time."""

import re
from dataclasses import dataclass
from datetime import datetime, time

_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True, slots=True)
class Window:
    """From `start` until before `end`, over midnight where `end` is the earlier; None: always."""

    start: time | None = None
    end: time | None = None

    @classmethod
    def parse(cls, text: str) -> "Window":
        """`22:00-06:00`, or `24h`. Raises ValueError."""
        if text.strip().lower() in ("24h", "always"):
            return cls()
        parts = [_TIME.fullmatch(part.strip()) for part in text.split("-")]
        if len(parts) != 2 or not all(parts):
            raise ValueError(f"{text!r} is no window of time: write 22:00-06:00, or 24h")
        start, end = (time(int(part[1]), int(part[2])) for part in parts if part)
        if start == end:
            raise ValueError(f"{text!r} is no time at all: write 24h for always")
        return cls(start, end)

    def is_open(self, now: datetime) -> bool:
        """Whether `now`, in local time, is within."""
        if self.start is None or self.end is None:
            return True
        at = now.time()
        if self.start < self.end:
            return self.start <= at < self.end
        return at >= self.start or at < self.end

    def __str__(self) -> str:
        if self.start is None or self.end is None:
            return "24h"
        return f"{self.start:%H:%M}-{self.end:%H:%M}"


ALWAYS = Window()
