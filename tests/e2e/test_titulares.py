"""The source material's own task: is the adapter better than the base, and than a few-shot prompt?

Real rows, the real base, the gate as it stands: nothing is forced.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.beside

Command = Callable[..., subprocess.CompletedProcess[str]]
TITULARES = Path(__file__).parents[2] / "train" / "examples" / "titulares"


@pytest.fixture(scope="module")
def result(command: Command) -> dict[str, Any]:
    """What `lorikeet train --json` says of a run on a part of the rows; unquantised is faster."""
    done = command(
        *("train", "--json", "--name", "titulares", "--config", str(TITULARES / "recipe.yaml")),
        *("--data", str(TITULARES / "train.jsonl")),
        *("--eval-data", str(TITULARES / "heldout.jsonl")),
        *("--set", "max_rows=300", "--set", "max_eval_rows=60", "--set", "quantization=none"),
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


@pytest.mark.timeout(900)
def test_the_adapter_beats_the_base_and_its_few_shot_prompt(result: dict[str, Any]) -> None:
    evaluation = result["evaluation"]
    adapter, base, few_shot = (evaluation[who] for who in ("adapter", "base", "few_shot"))
    assert adapter["rows"] == base["rows"] == few_shot["rows"] == 60
    assert adapter["accuracy"] > max(base["accuracy"], few_shot["accuracy"])
    assert adapter["loss"] < base["loss"]
    for baseline in ("base", "few_shot"):
        assert evaluation["comparison"][baseline]["low"] > 0


def test_so_the_gate_lets_it_into_production(command: Command, result: dict[str, Any]) -> None:
    promoted = command("adapters", "promote", "titulares", "1")
    assert promoted.returncode == 0, promoted.stderr
    shown = command("adapters", "show", result["version"], "--json")
    assert "prod" in json.loads(shown.stdout)["aliases"]
