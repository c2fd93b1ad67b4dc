"""`metrics.jsonl`: what every optimiser step was like, a JSON object a line, in their order."""

import json
import os
from pathlib import Path
from typing import Any

from train.runs.folder import replace_file


class Metrics:
    """The lines of one run. A line that a crash cut short is as if it were not there."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, line: dict[str, Any]) -> None:
        """Add a line. Raises OSError."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def lines(self) -> list[dict[str, Any]]:
        """All whole lines. Raises OSError."""
        if not self._path.is_file():
            return []
        lines = []
        for text in self._path.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                break
            if not isinstance(line, dict) or not isinstance(line.get("step"), int):
                break
            lines.append(line)
        return lines

    def of(self, step: int) -> list[dict[str, Any]]:
        """The lines of a step. Raises OSError."""
        return [line for line in self.lines() if line["step"] == step]

    def cut(self, step: int) -> None:
        """Forget what came after `step`: it will come again. Raises OSError."""
        kept = [json.dumps(line) for line in self.lines() if line["step"] <= step]
        if kept:
            replace_file(self._path, "\n".join(kept) + "\n")
        else:
            self._path.unlink(missing_ok=True)

    def losses(self) -> list[float]:
        """The loss of each step so far."""
        return [float(line["loss"]) for line in self.lines() if "loss" in line]

    def held_out(self) -> dict[int, float]:
        """The held-out losses that were measured, by step."""
        return {
            line["step"]: float(line["held_out_loss"])
            for line in self.lines()
            if "held_out_loss" in line
        }

    def sync(self) -> None:
        """Make the lines so far durable. Raises OSError."""
        if self._path.is_file():
            descriptor = os.open(self._path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
