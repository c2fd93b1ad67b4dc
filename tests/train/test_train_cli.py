"""The command: what it prints, where, and how it ends."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

import train.cli
from registry import LorikeetError
from train.progress import LiveReporter, PlainReporter, Reporter, Step, reporting

app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)
app.command()(train.cli.train)
ROWS = [{"prompt": f"Colour {n}?", "completion": "blue"} for n in range(10)]


def test_json_on_stdout_and_progress_on_stderr(
    home: Path, tiny_base: Path, write_rows: Callable[..., Path]
) -> None:
    data = write_rows(*ROWS)
    arguments = ["--data", str(data), "--name", "blue", "--base", str(tiny_base), "--json"]
    settings = ["max_steps=2", "batch_size=2", "rank=2", "baselines=false"]
    options = [part for setting in settings for part in ("--set", setting)]
    done = CliRunner().invoke(app, [*arguments, *options])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["version"] == "blue@1"
    assert result["training"]["steps"] == 2
    assert Path(result["path"]).is_relative_to(home)
    assert "step 2/2" in done.stderr
    assert "tokens/s" in done.stderr
    table = CliRunner().invoke(app, [*arguments[:-1], *options, "--no-publish"])
    assert table.exit_code == 0, table.output
    assert "adapter blue" in table.stdout
    assert "not published" in table.stdout


def test_help_has_examples_and_settings_are_listed() -> None:
    text = CliRunner().invoke(app, ["--help"]).stdout
    assert "lorikeet train --data rows.jsonl --name support" in text
    listing = CliRunner().invoke(app, ["--settings"])
    assert listing.exit_code == 0
    assert "learning_rate" in listing.stdout


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["--set", "learning_rat=1"], 2, "did you mean learning_rate?"),
        (["--data", "none.jsonl"], 2, "no data file"),
        (["--name", "A B"], 2, "cannot name an adapter"),
        (["--base", "no such base"], 1, "no base model"),
    ],
)
def test_mistakes_leave_as_errors_with_their_exit_code(
    home: Path,
    write_rows: Callable[..., Path],
    arguments: list[str],
    exit_code: int,
    message: str,
) -> None:
    defaults = ["--data", str(write_rows(*ROWS)), "--name", "blue"]
    done = CliRunner().invoke(app, [*defaults, *arguments])
    assert isinstance(done.exception, LorikeetError)
    assert done.exception.exit_code == exit_code
    assert message in done.exception.message
    assert done.exception.remedy
    assert home.is_dir()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_tells_step_loss_speed_and_time_left(is_terminal: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=is_terminal, width=120, color_system=None)
    with reporting(console) as reporter:
        assert isinstance(reporter, LiveReporter if is_terminal else PlainReporter)
        _tell(reporter)
    text = out.getvalue()
    for part in ("a note", "loss 1.500", "200 tokens/s", "making it", "the base"):
        assert part in text
    assert "10/40" in text


def _tell(reporter: Reporter) -> None:
    reporter.note("a note [INST]")
    reporter.making("making it", 0.5)
    reporter.step(Step(10, 40, 1.5, 2000, 10.0))
    reporter.answered("the base", 3, 3)


def test_the_time_left_is_that_of_the_steps_so_far() -> None:
    step = Step(10, 40, 1.5, 2000, 10.0)
    assert step.seconds_left == 30
    assert step.tokens_per_second == 200
