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
from registry import LorikeetError, RegistrySettings, UsageError
from train.errors import Interrupted, NothingToResume, UnknownRun
from train.progress import LiveReporter, PlainReporter, Reporter, Step, reporting
from train.runs.cli import app as runs
from train.runs.folder import RunFolder, RunRecord
from train.runs.lock import hold_name
from train.settings import TrainSettings

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
    assert "held-out rows" in table.stdout
    assert "not published" in table.stdout


def test_a_run_is_gone_on_with_by_its_id_and_with_no_other_option(
    home: Path, tiny_base: Path, write_rows: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_rows(*ROWS)
    arguments = ["--data", str(data), "--name", "blue", "--base", str(tiny_base), "--no-publish"]
    settings = ["max_steps=3", "batch_size=2", "rank=2", "baselines=false", "checkpoint_steps=1"]
    options = [part for setting in settings for part in ("--set", setting)]

    def stop(_: PlainReporter, step: Step) -> None:
        if step.number == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PlainReporter, "step", stop)
        stopped = CliRunner().invoke(app, [*arguments, *options])
    assert isinstance(stopped.exception, Interrupted)
    run_id = str(stopped.exception.remedy).rpartition(" ")[2]
    listing = json.loads(CliRunner().invoke(runs, ["list", "--json"]).stdout)
    assert [(run["id"], run["status"], run["checkpoint"]) for run in listing] == [
        (run_id, "stopped", 1)
    ]
    shown = CliRunner().invoke(runs, ["show", run_id])
    assert f"lorikeet train --resume {run_id}   (after step 1)" in shown.stdout
    both = CliRunner().invoke(app, ["--resume", run_id, "--set", "rank=4", "--name", "blue"])
    assert isinstance(both.exception, UsageError)
    assert "--name, --set: a resumed run has its own" in both.exception.message
    done = CliRunner().invoke(app, ["--resume", run_id, "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["run"], result["version"]) == (run_id, None)
    assert f"run {run_id}, resumed after step 1" in done.stderr
    table = CliRunner().invoke(runs, ["list"])
    assert "succeeded" in table.stdout
    again = CliRunner().invoke(app, ["--resume", run_id])
    assert isinstance(again.exception, NothingToResume)
    assert again.exception.exit_code == 2


def test_a_run_whose_process_died_is_shown_as_killed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = RegistrySettings(home=home)
    empty = CliRunner().invoke(runs, ["list"])
    assert "no runs in" in empty.stdout
    record = RunRecord(id="", name="blue", base="tiny", data="rows.jsonl")
    folder = RunFolder.create(settings, record, TrainSettings())
    with hold_name(settings, "blue") as lock:
        lock.announce(folder.id)
        alive = json.loads(CliRunner().invoke(runs, ["show", folder.id, "--json"]).stdout)
    dead = json.loads(CliRunner().invoke(runs, ["show", folder.id, "--json"]).stdout)
    assert (alive["status"], dead["status"]) == ("running", "killed")
    unknown = CliRunner().invoke(runs, ["show", "blue-1"])
    assert isinstance(unknown.exception, UnknownRun)


def test_a_new_run_needs_data_and_a_name() -> None:
    for arguments in ([], ["--data", "rows.jsonl"], ["--name", "blue"]):
        done = CliRunner().invoke(app, arguments)
        assert isinstance(done.exception, UsageError)
        assert "--data and --name are needed" in done.exception.message


def test_help_has_examples_and_settings_are_listed() -> None:
    text = CliRunner().invoke(app, ["--help"]).stdout
    assert "lorikeet train --data rows.jsonl --name support" in text
    listing = CliRunner().invoke(app, ["--settings"])
    assert listing.exit_code == 0
    assert "learning_rate" in listing.stdout


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["--resume", "blue-1"], 2, "a resumed run has its own"),
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
