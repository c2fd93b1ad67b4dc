"""All that a benchmark has measured so far: its JSON file, its tables and its verdicts."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from loadtests import api_cpu, churn, fairness, first_token, starts, throughput, training
from loadtests.api_cpu import Spent
from loadtests.churn import Phase
from loadtests.fairness import Quiet, Shares
from loadtests.first_token import Pair
from loadtests.starts import Start
from loadtests.throughput import Turn
from loadtests.training import TrainingRun
from loadtests.verdict import Verdict, verdicts_json


@dataclass
class Results:
    """Grows turn by turn; `about` says what was measured on what, and how."""

    about: Mapping[str, Any]
    servers: dict[str, Any] = field(default_factory=dict)
    """How each was started."""
    turns: list[Turn] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    loads: list[Spent] = field(default_factory=list)
    quiets: list[Quiet] = field(default_factory=list)
    shares: list[Shares] = field(default_factory=list)
    trainings: list[TrainingRun] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What could not be measured, and why."""

    def verdicts(self) -> list[Verdict]:
        """In the order of the tables."""
        return [
            *throughput.verdicts(self.turns),
            *starts.verdicts(self.starts),
            *first_token.verdicts(self.pairs),
            *churn.verdicts(self.phases),
            *api_cpu.verdicts(self.loads),
            *fairness.verdicts(self.quiets, self.shares),
            *training.verdicts(self.trainings),
        ]

    def tables(self) -> Iterator[Table]:
        """One for each kind of measurement that was made."""
        if self.turns:
            yield throughput.table(self.turns)
        if self.starts:
            yield starts.table(self.starts)
        if self.pairs:
            yield first_token.table(self.pairs)
        if self.phases:
            yield churn.table(self.phases)
        if self.loads:
            yield api_cpu.table(self.loads)
        if self.quiets or self.shares:
            yield fairness.table(self.quiets, self.shares)
        if self.trainings:
            yield training.table(self.trainings)

    def to_json(self) -> dict[str, Any]:
        """Everything, the verdicts too; what is not a number is null."""
        document = asdict(self)
        about = document.pop("about")
        document["rows"] = [asdict(row) for row in throughput.rows(self.turns)]
        document["verdicts"] = verdicts_json(self.verdicts())
        finite: dict[str, Any] = _finite({**about, **document})
        return finite

    def write(self, path: Path) -> None:
        """Put it in place whole, so that an interrupted benchmark leaves what it had."""
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps(self.to_json(), indent=2) + "\n")
        draft.replace(path)


def _finite(value: Any) -> Any:
    """JSON knows no NaN."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
