"""What a run would make of a data file: rows, tokens, faults, and how long it would take.

report = check_data(Path("rows.jsonl"), None, TrainSettings(), resolve_base(DEFAULT_BASE))
report.refusals        why training would refuse it, if it would
report.as_dict()
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry import Base
from registry.plain_template import PLAIN_NOTE
from train.base_model import load_tokenizer, stop_ids
from train.data.chat import Chat
from train.data.coverage import Coverage, coverage_of
from train.data.estimate import Estimate, estimate_run
from train.data.example import Example, example_at
from train.data.formats import parse_rows
from train.data.masking import DATED_NOTE, ChatEncoder, EncodedChat, try_encode
from train.data.parts import hold_out, sample
from train.data.rejected import Rejected
from train.data.rows import Row, no_rows, scan_rows
from train.progress import Reporter, SilentReporter
from train.settings import TrainSettings

_MOST_SHOWN = 50
_ROWS_A_REPORT = 200


@dataclass(frozen=True)
class PartReport:
    """One file: its rows, encoded where that can be done, and what is the matter with others.

    `duplicates` are lines that say what an earlier one says, `same_prompt` lines that ask what an
    earlier one asks and answer otherwise.
    """

    path: Path
    rows: int
    encoded: tuple[EncodedChat, ...]
    rejected: tuple[Rejected, ...]
    duplicates: tuple[int, ...]
    same_prompt: tuple[int, ...]
    coverage: Coverage

    @property
    def lengths(self) -> list[int]:
        """Tokens of each encoded row, in ascending order."""
        return sorted(row.length for row in self.encoded)

    def as_dict(self) -> dict[str, Any]:
        """JSON values; of many rejected rows and differences the first ones."""
        lengths = self.lengths
        drifts = [row.drift for row in self.encoded if row.drift]
        return {
            "path": str(self.path),
            "rows": self.rows,
            "usable": len(self.encoded),
            "rejected": len(self.rejected),
            "problems": [
                {
                    "line": row.line,
                    "message": row.message,
                    "expected": row.expected,
                    "kind": row.kind,
                }
                for row in self.rejected[:_MOST_SHOWN]
            ],
            "tokens": {
                "all": sum(lengths),
                "trained": sum(row.trained_tokens for row in self.encoded),
                "shortest": lengths[0] if lengths else 0,
                "median": lengths[len(lengths) // 2] if lengths else 0,
                "longest": lengths[-1] if lengths else 0,
            },
            "duplicates": list(self.duplicates),
            "same_prompt": list(self.same_prompt),
            "coverage": self.coverage.as_dict(),
            "drift": [drift.as_dict() for drift in drifts[:_MOST_SHOWN]],
        }


@dataclass(frozen=True)
class DataReport:
    """What a run would make of the data.

    `overlap` are lines of the held-out rows whose prompt is trained: a run leaves them out.
    """

    base: str
    template: str
    data: PartReport
    held_out: PartReport | None
    held_out_rows: int
    overlap: tuple[int, ...]
    refusals: tuple[str, ...]
    notes: tuple[str, ...]
    estimate: Estimate | None
    example: Example | None

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "base": self.base,
            "template": self.template,
            "trainable": not self.refusals,
            "refusals": list(self.refusals),
            "notes": list(self.notes),
            "data": self.data.as_dict(),
            "held_out": self.held_out.as_dict() if self.held_out else None,
            "held_out_rows": self.held_out_rows,
            "overlap": list(self.overlap),
            "estimate": self.estimate.as_dict() if self.estimate else None,
            "example": self.example.as_dict() if self.example else None,
        }


def check_data(
    data: Path,
    eval_data: Path | None,
    settings: TrainSettings,
    base: Base,
    reporter: Reporter | None = None,
    *,
    row: int | None = None,
) -> DataReport:
    """Read and encode `data` (and `eval_data`) as a run with `settings` on `base` would.

    A faulty row is counted and does not hide others. The row at line `row`, or the first one, is
    the example. Raises DataFileMissing, BaseNotTrainable, and DataError where there is no row at
    all, or none to show at `row`.
    """
    reporter = reporter or SilentReporter()
    notes: list[str] = []
    tokenizer = load_tokenizer(base)
    encoder = ChatEncoder(tokenizer, base.id, stop_ids(base))
    if encoder.plain:
        notes.append(f"{base.id} {PLAIN_NOTE}")
    if encoder.dated:
        notes.append(f"{base.id} {DATED_NOTE}")
    checker = _Checker(encoder, tokenizer.bos_token_id, settings, reporter, notes)
    part = checker.part(data)
    held_out = checker.part(eval_data) if eval_data is not None else None
    training = [row.chat for row in part.encoded]
    if held_out is None:
        training, held = hold_out(training, settings.eval_fraction, settings.seed)
    else:
        held = [row.chat for row in held_out.encoded]
    training = list(sample(training, settings.max_rows, settings.seed))
    asked = {chat.question for chat in training}
    overlap = tuple(chat.line for chat in held if chat.question in asked)
    kept = {chat.line for chat in training}
    rows = [
        row for row in part.encoded if row.chat.line in kept and row.longest <= settings.max_length
    ]
    return DataReport(
        base=base.id,
        template="plain" if encoder.plain else "the base's",
        data=part,
        held_out=held_out,
        held_out_rows=len(held),
        overlap=overlap,
        refusals=tuple(_refusals(part, held_out, len(overlap), len(held), settings)),
        notes=tuple(notes),
        estimate=estimate_run(rows, settings, base) if rows else None,
        example=example_at(part.encoded, part.rejected, row, tokenizer),
    )


@dataclass(frozen=True)
class _Checker:
    encoder: ChatEncoder
    bos_id: int | None
    settings: TrainSettings
    reporter: Reporter
    notes: list[str]

    def part(self, path: Path) -> PartReport:
        """The report of one file."""
        rows: list[Row] = []
        rejected: list[Rejected] = []
        for found in scan_rows(path, self.notes.append):
            if isinstance(found, Row):
                rows.append(found)
            else:
                rejected.append(found)
        count = len(rows) + len(rejected)
        if not count:
            raise no_rows(path)
        encoded: list[EncodedChat] = []
        chats: list[Chat] = []
        for number, item in enumerate(parse_rows(rows, self.settings.data_format), start=1):
            if number % _ROWS_A_REPORT == 0 or number == len(rows):
                self.reporter.making(f"checking {path.name}", number / len(rows))
            if isinstance(item, Rejected):
                rejected.append(item)
                continue
            chats.append(item)
            row = try_encode(self.encoder, item, self.settings.max_length, measure=True)
            if isinstance(row, Rejected):
                rejected.append(row)
            else:
                encoded.append(row)
        rejected.sort(key=lambda problem: problem.line)
        duplicates, same_prompt = _repeated(chats)
        return PartReport(
            path=path,
            rows=count,
            encoded=tuple(encoded),
            rejected=tuple(rejected),
            duplicates=duplicates,
            same_prompt=same_prompt,
            coverage=coverage_of(
                encoded,
                rejected,
                max_length=self.settings.max_length,
                bos_id=self.bos_id,
                stop_ids=self.encoder.stop_ids,
            ),
        )


def _repeated(chats: Sequence[Chat]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Lines of chats equal to an earlier one, and lines with only its prompt."""
    said: set[Any] = set()
    asked: Counter[Any] = Counter()
    duplicates, same_prompt = [], []
    for chat in chats:
        if chat.messages in said:
            duplicates.append(chat.line)
        elif asked[chat.question]:
            same_prompt.append(chat.line)
        said.add(chat.messages)
        asked[chat.question] += 1
    return tuple(duplicates), tuple(same_prompt)


def _refusals(
    part: PartReport,
    held_out: PartReport | None,
    overlap: int,
    held: int,
    settings: TrainSettings,
) -> list[str]:
    """Why a run would refuse the data: nothing where it would not."""
    reasons = []
    for one in (part, held_out):
        if one is None:
            continue
        if one.rejected:
            reasons.append(f"{one.path}: {len(one.rejected)} rows cannot be used")
        long, drifted = len(one.coverage.too_long), len(one.coverage.drift)
        if long and settings.too_long == "error":
            reasons.append(
                f"{one.path}: {long} rows are longer than {settings.max_length} tokens "
                "(raise max_length, or too_long=drop)"
            )
        elif one.encoded and long == len(one.encoded):
            reasons.append(f"{one.path}: every row is longer than {settings.max_length} tokens")
        if drifted and settings.template_drift == "error":
            reasons.append(
                f"{one.path}: {drifted} rows have token ids that the server would not make "
                "(or template_drift=allow)"
            )
    if held and overlap == held:
        reasons.append("every held-out row is among the training rows")
    return reasons
