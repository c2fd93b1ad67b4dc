"""`lorikeet data check`: what it prints, and how it ends."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from typer.testing import CliRunner

from registry.base_identity import chat_template
from train.data.cli import app
from train.errors import DataFileMissing

WriteRows = Callable[..., Path]
ROWS = [{"prompt": f"Colour {n}?", "completion": "blue [bold]"} for n in range(12)]


def test_a_report_in_the_terminal(home: Path, tiny_base: Path, write_rows: WriteRows) -> None:
    path = write_rows(*ROWS)
    done = CliRunner().invoke(app, ["check", str(path), "--base", str(tiny_base), "--row", "2"])
    assert done.exit_code == 0, done.output
    for part in (
        "in the loss",
        "█",
        "line 2 as the model sees it",
        "Colour 1?",
        "⟦blue [bold]<|im_end|>⟧",
        "GFLOP/s",
        "GiB",
        "held out     1 rows",
        "can be trained on (tiny",
    ):
        assert part in done.stdout, part
    assert "checking rows.jsonl 100%" in done.stderr


def test_what_training_would_refuse_ends_with_1(
    home: Path, tiny_base: Path, write_rows: WriteRows
) -> None:
    path = write_rows(*ROWS, {"prompt": "a"}, {"nothing": 1})
    arguments = ["check", str(path), "--base", str(tiny_base)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert "training would refuse it" in done.stdout
    assert "has nothing" in done.stdout
    done = CliRunner().invoke(app, [*arguments, "--json", "--set", "max_length=16"])
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert report["trainable"] is False
    assert [problem["line"] for problem in report["data"]["problems"]] == [13, 14]
    assert report["data"]["coverage"]["too_long"]["rows"] == 12
    assert report["example"]["line"] == 1
    missing = CliRunner().invoke(app, ["check", "none.jsonl", "--base", str(tiny_base)])
    assert isinstance(missing.exception, DataFileMissing)


def test_a_base_without_a_template_is_said_aloud(
    home: Path, tiny_base: Path, tmp_path: Path, write_rows: WriteRows
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_base, bare)
    (bare / "chat_template.jinja").unlink()
    config = json.loads((bare / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (bare / "tokenizer_config.json").write_text(json.dumps(config))
    assert chat_template(bare) == ""
    done = CliRunner().invoke(app, ["check", str(write_rows(*ROWS)), "--base", str(bare)])
    assert done.exit_code == 0, done.output
    assert "note: bare has no chat template: chats are rendered as plain" in done.stdout
    assert "User:\nColour 0?\nAssistant:\n⟦blue" in done.stdout
    assert "(bare, plain chat template)" in done.stdout
