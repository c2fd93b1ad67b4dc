"""A data report in the terminal."""

from collections.abc import Sequence
from typing import Any

from rich.bar import Bar
from rich.console import Console
from rich.table import Table
from rich.text import Text

from train.data.check import DataReport, PartReport
from train.data.coverage import MEANINGS
from train.data.estimate import EFFICIENCY, Estimate
from train.data.example import Example, Stretch
from train.data.rejected import Rejected
from train.settings import TrainSettings

_MOST_ROWS = 10
_MOST_BINS = 10
_LONGEST_STRETCH = 1200


def print_report(console: Console, report: DataReport, settings: TrainSettings) -> None:
    """All of `report`, and in the end whether training would take the data."""

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=True)

    for note in report.notes:
        say(f"note: {note}", "yellow")
    _print_part(console, report.data, "", settings)
    if report.held_out is not None:
        console.print()
        _print_part(console, report.held_out, "held-out ", settings)
    elif report.held_out_rows:
        say(f"held out     {report.held_out_rows} rows, by eval_fraction and seed")
    else:
        say("held out     none: the adapter would not be evaluated")
    if report.overlap:
        say(
            f"overlap      {len(report.overlap)} of {report.held_out_rows} held-out rows ask what "
            f"a training row asks, and are left out: {_lines(report.overlap)}",
            "yellow",
        )
    if report.example is not None:
        console.print()
        _print_example(console, report.example)
    if report.estimate is not None:
        console.print()
        _print_estimate(console, report.estimate)
    console.print()
    for reason in report.refusals:
        say(f"training would refuse it: {reason}", "bold red")
    if not report.refusals:
        say(f"can be trained on ({report.base}, {report.template} chat template)", "bold green")


def _print_part(console: Console, part: PartReport, what: str, settings: TrainSettings) -> None:
    figures = part.as_dict()
    tokens = figures["tokens"]
    grid = Table.grid(padding=(0, 2))
    rejected = f", {len(part.rejected)} rejected" if part.rejected else ""
    grid.add_row("data", Text(f"{what}{part.path}"))
    grid.add_row("rows", f"{part.rows:,}{rejected}")
    grid.add_row("tokens", f"{tokens['all']:,}, {tokens['trained']:,} of them in the loss")
    grid.add_row("a row", f"{tokens['shortest']} to {tokens['longest']}, half {tokens['median']}")
    if part.duplicates:
        grid.add_row("duplicates", f"{len(part.duplicates)} rows: {_lines(part.duplicates)}")
    if part.same_prompt:
        many = f"{len(part.same_prompt)} rows ask what an earlier one asks, and answer otherwise"
        grid.add_row("same prompt", f"{many}: {_lines(part.same_prompt)}")
    console.print(grid, highlight=False)
    if part.encoded:
        console.print()
        console.print(_histogram(part.lengths, settings.max_length), highlight=False)
    console.print()
    console.print(_coverage(part), highlight=False)
    if part.rejected:
        console.print()
        console.print(_rejected(part.rejected), highlight=False)
    drifts = [row.drift for row in part.encoded if row.drift]
    for drift in drifts[:_MOST_ROWS]:
        console.print(Text(f"line {drift.line}, {drift}", style="red"), soft_wrap=True)
    if len(drifts) > _MOST_ROWS:
        console.print(Text(f"… and {len(drifts) - _MOST_ROWS} more rows", style="red"))


def _histogram(lengths: Sequence[int], max_length: int) -> Table:
    """Rows by their tokens, in at most ten bins of a round width; those over the limit in red."""
    width = 1
    for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10**4, 10**5, 10**6, 10**7):
        width = step
        if (lengths[-1] // step) - (lengths[0] // step) < _MOST_BINS:
            break
    counts: dict[int, int] = {}
    for length in lengths:
        counts[length // width] = counts.get(length // width, 0) + 1
    most = max(counts.values())
    table = Table("tokens", "rows", "", box=None, pad_edge=False, header_style="bold")
    table.columns[0].justify = table.columns[1].justify = "right"
    for number in range(lengths[0] // width, lengths[-1] // width + 1):
        count = counts.get(number, 0)
        over = number * width > max_length
        bar = Bar(most, 0, count, width=40, color="red" if over else "green")
        first, last = number * width, (number + 1) * width - 1
        span = f"{first}" if first == last else f"{first}–{last}"
        table.add_row(span, f"{count:,}", bar)
    return table


def _coverage(part: PartReport) -> Table:
    table = Table("loss coverage", "rows", "lines", box=None, pad_edge=False, header_style="bold")
    table.columns[1].justify = "right"
    for name, meaning in MEANINGS.items():
        lines = getattr(part.coverage, name)
        table.add_row(meaning, str(len(lines)), _lines(lines), style="yellow" if lines else "dim")
    return table


def _rejected(problems: Sequence[Rejected]) -> Table:
    table = Table("line", "rejected", "expected", box=None, pad_edge=False, header_style="bold")
    for problem in problems[:_MOST_ROWS]:
        table.add_row(str(problem.line), Text(problem.message), Text(problem.expected))
    if len(problems) > _MOST_ROWS:
        table.add_row("…", f"and {len(problems) - _MOST_ROWS} more (--json names 50)", "")
    return table


def _print_example(console: Console, example: Example) -> None:
    """A row's text; what is trained in green, and between ⟦ ⟧ where there is no colour."""
    colour = console.is_terminal and not console.no_color
    marked = "in green" if colour else "between ⟦ ⟧"
    console.print(f"line {example.line} as the model sees it, trained {marked}", style="bold")
    for stretches in example.sequences:
        text = Text()
        for stretch in stretches:
            shown = _shortened(stretch)
            if stretch.trained:
                text.append(shown if colour else f"⟦{shown}⟧", style="bold green")
            else:
                text.append(shown, style="dim")
        console.print(text, soft_wrap=True)


def _shortened(stretch: Stretch) -> str:
    text, half = stretch.text, _LONGEST_STRETCH // 2
    if len(text) <= _LONGEST_STRETCH:
        return text
    return f"{text[:half]}\n… {len(text) - 2 * half:,} characters …\n{text[-half:]}"


def _print_estimate(console: Console, estimate: Estimate) -> None:
    grid = Table.grid(padding=(0, 2))
    speed = f"{estimate.operations_per_second / 1e9:,.0f} GFLOP/s"
    grid.add_row(
        "time",
        f"about {_duration(estimate.seconds)} for {estimate.steps} steps, {estimate.tokens:,} "
        f"tokens, without evaluation: an estimate from {speed} in a matrix product here, "
        f"{EFFICIENCY:.0%} of which a run reaches",
    )
    memory = estimate.memory_bytes
    if memory is not None:
        grid.add_row("memory", f"about {memory / 2**30:.1f} GiB ({estimate.device}), an estimate")
    console.print(grid, highlight=False)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _lines(lines: Sequence[int]) -> str:
    shown: list[Any] = [str(line) for line in lines[:8]]
    return ", ".join(shown) + (" …" if len(lines) > 8 else "")
