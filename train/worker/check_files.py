"""The row checks of a job's files: which rows cannot be trained on, by line, and what else speaks
against the training. Runs in a child."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from registry import Base, LorikeetError
from registry.base_modules import linear_modules
from registry.files import sha256_of
from train.data.check import DataReport, PartReport, check_data
from train.data.masking import IGNORED, Encoded
from train.errors import RowProblem
from train.progress import Reporter
from train.settings import TrainSettings
from train.worker.failures import INTERNAL, INVALID_FILE, INVALID_SETTINGS, clean
from train.worker.order import Order, Outcome, Source
from train.worker.recipe import resolved

MOST_LINES = 10
"""How many bad rows are named."""


def check_files(order: Order, base: Base, settings: TrainSettings, reporter: Reporter) -> Outcome:
    """Whether the job can be trained, its hyperparameters, and how long its rows are.

    Raises what `check_data` does.
    """
    if bad := damaged(order):
        return bad
    if bad := _wrong_targets(base, settings):
        return bad
    report = check_data(
        Path(order.training.path),
        Path(order.validation.path) if order.validation else None,
        settings,
        base,
        reporter,
    )
    for part, source, param in (
        (report.data, order.training, "training_file"),
        (report.held_out, order.validation, "validation_file"),
    ):
        if part is None or source is None:
            continue
        if reasons := list(_reasons(part, source, settings)):
            return Outcome("failed", INVALID_FILE[param], " ".join(reasons), param)
    if report.refusals:
        param = "validation_file" if order.validation else "training_file"
        text = clean("; ".join(report.refusals), order)
        return Outcome("failed", INVALID_FILE[param], text, param)
    if settings.early_stopping and not report.held_out_rows:
        text = "early_stopping needs held-out rows: give a validation_file."
        return Outcome("failed", INVALID_SETTINGS, text, "lorikeet.early_stopping")
    fitting = [row for row in report.data.encoded if row.longest <= settings.max_length]
    count = len(fitting) - (0 if report.held_out else report.held_out_rows)
    return Outcome(
        "done",
        message=_told(report, count),
        values={
            "hyperparameters": resolved(order.hyperparameters, count),
            "rows": _sizes([sequence for row in fitting for sequence in row.sequences]),
        },
    )


def damaged(order: Order) -> Outcome | None:
    """The outcome where a stored file is not what it was when it came."""
    for source in (order.training, order.validation):
        if source is None:
            continue
        try:
            same = sha256_of(Path(source.path)) == source.sha256
        except OSError:
            same = False
        if not same:
            text = f"The stored file {source.filename} is damaged; upload it again."
            return Outcome("failed", INTERNAL, text)
    return None


def _wrong_targets(base: Base, settings: TrainSettings) -> Outcome | None:
    if settings.targets == "all-linear":
        return None
    try:
        known = {name.rpartition(".")[2] for name in linear_modules(base.path)} - {"lm_head"}
    except LorikeetError:  # the training itself will tell
        return None
    unknown = [name for name in settings.targets if name not in known]
    if not unknown:
        return None
    text = f"The base has no layer {', '.join(unknown)}; it has {', '.join(sorted(known))}."
    return Outcome("failed", INVALID_SETTINGS, text, "lorikeet.targets")


def _reasons(part: PartReport, source: Source, settings: TrainSettings) -> Iterator[str]:
    """What is the matter with the rows of one file."""
    if part.rejected:
        yield _bad_rows(source, part.rejected)
    long, drift = part.coverage.too_long, part.coverage.drift
    if long and settings.too_long == "error":
        yield (
            f"{source.filename}: {_lines(long)} longer than {settings.max_length} tokens; shorten "
            "them, raise lorikeet.max_length, or set lorikeet.too_long to drop."
        )
    elif part.encoded and len(long) == len(part.encoded):
        yield f"{source.filename}: every row is longer than {settings.max_length} tokens."
    if drift and settings.template_drift == "error":
        yield (
            f"{source.filename}: {_lines(drift)} trained on token ids that the server would not "
            "make of the same chat; set lorikeet.template_drift to allow where that is meant."
        )


def _bad_rows(source: Source, problems: Sequence[RowProblem]) -> str:
    """`data.jsonl: 12 rows cannot be used: line 3: …; … and 2 more`."""
    shown = "; ".join(str(problem) for problem in problems[:MOST_LINES])
    more = f"; and {len(problems) - MOST_LINES} more" if len(problems) > MOST_LINES else ""
    count = "1 row" if len(problems) == 1 else f"{len(problems)} rows"
    return f"{source.filename}: {count} cannot be used: {shown}{more}."


def _lines(lines: Sequence[int]) -> str:
    named = ", ".join(str(line) for line in lines[:MOST_LINES])
    if len(lines) == 1:
        return f"line {named} is"
    more = f" and {len(lines) - MOST_LINES} more" if len(lines) > MOST_LINES else ""
    return f"lines {named}{more} are"


def _sizes(rows: Sequence[Encoded]) -> dict[str, int]:
    """The longest row in tokens, and the most of its end that is read for the loss."""
    return {
        "longest": max(len(row.input_ids) for row in rows),
        "trained": max(
            len(row.labels) - next(i for i, label in enumerate(row.labels) if label != IGNORED)
            for row in rows
            if row.trained_tokens
        ),
    }


def _told(report: DataReport, rows: int) -> str:
    held, seen = report.held_out_rows, len(report.overlap)
    told = f"{rows} rows to train on, {sum(report.data.lengths):,} tokens in the file"
    if held:
        told += f", {held - seen} rows held out"
    if seen:
        told += f"; {seen} more rows of the validation file are trained on too: not evaluated"
    return told
