"""What a server's work takes, from measurements of one."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from registry import UsageError


class Step(BaseModel):
    """What one token of each sequence took, with so many sequences of so many adapters at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: int = Field(ge=1)
    adapters: int = Field(ge=0)
    seconds: float = Field(gt=0)


class Measured(BaseModel):
    """The part of a results file that times come from; `python -m loadtests.replicas` makes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: tuple[Step, ...] = Field(min_length=1)
    cold_load_seconds: float = Field(ge=0)
    """More until the first token, where the adapter was not loaded."""
    prompt_token_seconds: float = Field(ge=0)
    """More for each token of the prompt."""
    overhead_seconds: float = Field(ge=0)
    """From the client to the engine and back."""


@dataclass(frozen=True)
class Timing:
    """A straight line through the measured steps: sequences and adapters each cost their share."""

    measured: Measured
    _line: tuple[float, float, float] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_line", _fitted(self.measured.steps))

    @classmethod
    def read(cls, path: Path) -> "Timing":
        """From the `timing` of a results file. Raises UsageError."""
        try:
            return cls(Measured.model_validate(json.loads(path.read_text())["timing"]))
        except (OSError, ValueError, KeyError, ValidationError) as error:
            raise UsageError(
                f"cannot read times from {path}: {error}",
                remedy="make it by python -m loadtests.replicas",
            ) from error

    def step(self, batch: int, adapters: int) -> float:
        """Seconds for one token of each sequence."""
        once, sequence, adapter = self._line
        return once + sequence * batch + adapter * adapters


def _fitted(steps: Sequence[Step]) -> tuple[float, float, float]:
    """Least squares; a share that would be negative, or that nothing measured tells, is none."""
    seconds = np.array([step.seconds for step in steps])
    columns = [
        np.ones(len(steps)),
        np.array([float(step.batch) for step in steps]),
        np.array([float(step.adapters) for step in steps]),
    ]
    used = [0, *(it for it in (1, 2) if np.ptp(columns[it]))]
    while True:
        shares = np.linalg.lstsq(np.stack([columns[it] for it in used], 1), seconds, rcond=None)[0]
        if shares.min() >= 0 or len(used) == 1:
            break
        del used[int(shares.argmin())]
    found = dict(zip(used, map(float, shares), strict=True))
    return found.get(0, 0.0), found.get(1, 0.0), found.get(2, 0.0)
