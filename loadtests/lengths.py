"""How long prompts and answers are: a distribution that several runs share, from a file.

    {"lengths": [{"prompt": 48, "output": 32, "weight": 30}, …]}     # JSON
    prompt,output,weight                                             # or CSV with this header

Lengths are in tokens, weights relative to each other. Prompts are made of common words, most of
which are one token; the chat template adds its own. A report has what the server counted.
"""

import csv
import io
import json
import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from registry import UsageError

DEFAULT_LENGTHS = Path(__file__).with_name("lengths.json")
LONGEST = 1_000_000
"""Tokens: what is longer is a slip of the keyboard."""


@dataclass(frozen=True, slots=True)
class Length:
    """Of a prompt and the answer that it asks for, in tokens."""

    prompt: int
    output: int
    weight: float = 1.0


class Lengths:
    """Draws pairs of prompt and answer, so that the two stay related as they are in the file."""

    def __init__(self, lengths: Iterable[Length]) -> None:
        self.lengths = tuple(lengths)
        self._bounds = tuple(accumulate(length.weight for length in self.lengths))
        if not self.lengths or self._bounds[-1] <= 0:
            raise ValueError("there is no length to draw from")

    @classmethod
    def read(cls, path: Path) -> "Lengths":
        """From a JSON or CSV file. Raises UsageError with everything that is wrong in it."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read {path}: {error}", remedy="check --lengths") from error
        rows = _csv_rows(text) if path.suffix.lower() == ".csv" else _json_rows(text, path)
        problems: list[str] = []
        found = [length for length in (_length(*row, problems) for row in rows) if length]
        if not problems and not sum(length.weight for length in found) > 0:
            problems.append("no length has a weight")
        if problems:
            raise UsageError(
                f"{path}: {'; '.join(problems[:10])}",
                remedy="each length needs prompt and output (tokens, from 1) and weight (from 0)",
            )
        return cls(found)

    def draw(self, source: random.Random) -> Length:
        """One pair."""
        return source.choices(self.lengths, cum_weights=self._bounds)[0]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt and its answer together."""
        return max(length.prompt + length.output for length in self.lengths)


def _json_rows(text: str, path: Path) -> list[tuple[int, Any]]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}", remedy="check --lengths") from error
    rows = document.get("lengths") if isinstance(document, dict) else None
    if not isinstance(rows, list):
        raise UsageError(f"{path} has no list `lengths`", remedy="see loadtests/lengths.json")
    return list(enumerate(rows, start=1))


def _csv_rows(text: str) -> list[tuple[int, Any]]:
    return list(enumerate(csv.DictReader(io.StringIO(text)), start=1))


def _length(number: int, row: Any, problems: list[str]) -> Length | None:
    """One row; None, with a problem noted, where it cannot be meant."""
    if not isinstance(row, Mapping):
        problems.append(f"length {number} is not an object")
        return None
    try:
        prompt, output = (_whole(row.get(key)) for key in ("prompt", "output"))
        weight = float(row.get("weight") or 0) if "weight" in row else 1.0
    except (TypeError, ValueError) as error:
        problems.append(f"length {number}: {error}")
        return None
    if not 1 <= min(prompt, output) <= max(prompt, output) <= LONGEST:
        problems.append(f"length {number}: prompt {prompt}, output {output}")
        return None
    if not (math.isfinite(weight) and weight >= 0):
        problems.append(f"length {number}: weight {weight}")
        return None
    return Length(prompt, output, weight)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{value!r} is not a whole number")
    return int(value)
