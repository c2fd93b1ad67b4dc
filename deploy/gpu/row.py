"""One row of the table: a check, how it went, and its figures."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Figures = Mapping[str, float | int | str]
Status = Literal["passed", "failed", "skipped"]


class Skipped(Exception):
    """A check cannot be made here; the message says why."""


class NotMet(Exception):
    """What a check expects is not so; `figures` are what was found."""

    def __init__(self, message: str, figures: Figures | None = None) -> None:
        super().__init__(message)
        self.figures = dict(figures or {})


@dataclass(frozen=True, slots=True)
class Row:
    """A check that has ended; `seconds` with its program's start, `reason` where not passed."""

    name: str
    what: str
    status: Status
    seconds: float = 0.0
    figures: Figures = field(default_factory=dict)
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @property
    def told(self) -> str:
        """The reason, or the figures in one line."""
        figures = ", ".join(f"{name} {_number(value)}" for name, value in self.figures.items())
        return "; ".join(filter(None, (self.reason, figures)))


def _number(value: float | int | str) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)
