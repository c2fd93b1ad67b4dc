"""What a child is told to do and what it says became of it, as files in the job's folder.

::

    <home>/jobs/<job id>/
        order.json      in
        outcome.json    out; absent where the child was killed
        log             what it printed
        rows.json       how long the rows are, for the memory that their training takes
"""

import json
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from registry import RegistrySettings
from train.runs.folder import write_json

Work = Literal["validate", "train", "certify"]


@dataclass(frozen=True, slots=True)
class Source:
    """A file of rows: where it is, what it has to be, and what its owner calls it."""

    path: str
    sha256: str
    filename: str


@dataclass(frozen=True, slots=True)
class Order:
    """Work on a job. `settings` are those of TrainSettings; the last two are for certifying."""

    work: Work
    job: str
    adapter: str
    base: str
    base_place: str
    base_digest: str
    training: Source
    validation: Source | None
    settings: dict[str, Any]
    hyperparameters: dict[str, Any]
    reference: str | None = None
    server: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended: as it should, stopped on request, or failed for the reason that is given.

    `code`, `message` and `param` are those of the job's `error`. `values` are what was found out.
    """

    status: Literal["done", "stopped", "failed"]
    code: str | None = None
    message: str = ""
    param: str | None = None
    values: dict[str, Any] = field(default_factory=dict)


class JobFolder:
    """The folder of one job."""

    def __init__(self, settings: RegistrySettings, job_id: str) -> None:
        self.path = settings.home / "jobs" / job_id

    @property
    def log(self) -> Path:
        """What the children printed, one after the other."""
        return self.path / "log"

    def give(self, order: Order) -> None:
        """Write the order; of an earlier child's outcome nothing is left. Raises OSError."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "outcome.json").unlink(missing_ok=True)
        write_json(self.path / "order.json", asdict(order))

    def order(self) -> Order:
        """The order, for the child."""
        values = json.loads((self.path / "order.json").read_text(encoding="utf-8"))
        validation = values.pop("validation")
        return Order(
            **values | {"training": Source(**values["training"])},
            validation=Source(**validation) if validation else None,
        )

    def answer(self, outcome: Outcome) -> None:
        """Write the outcome, whole or not at all. Raises OSError."""
        write_json(self.path / "outcome.json", asdict(outcome))

    def outcome(self) -> Outcome | None:
        """What the child said; None where it did not get to it."""
        try:
            return Outcome(**json.loads((self.path / "outcome.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def remember_rows(self, rows: dict[str, int]) -> None:
        """Keep the sizes of the rows. Raises OSError."""
        write_json(self.path / "rows.json", rows)

    def rows(self) -> dict[str, int]:
        """The sizes of the rows; empty where they are not known here."""
        with suppress(OSError, ValueError):
            values = json.loads((self.path / "rows.json").read_text(encoding="utf-8"))
            return values if isinstance(values, dict) else {}
        return {}

    def remove(self) -> None:
        """Delete all of it."""
        shutil.rmtree(self.path, ignore_errors=True)
