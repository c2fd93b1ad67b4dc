"""`lorikeet train` on SmolLM2, killed with SIGKILL and resumed: the adapter of a quiet run."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.beside

ROWS = Path(__file__).parents[2] / "train" / "examples" / "opl" / "train.jsonl"
SETTINGS = (
    *("rank=4", "batch_size=2", "max_steps=6", "learning_rate=0.002", "dropout=0.1"),
    *("checkpoint_steps=2", "eval_fraction=0"),
)
LONGEST = 240.0


def _arguments(name: str, data: Path) -> list[str]:
    options = [part for setting in SETTINGS for part in ("--set", setting)]
    return ["train", "--data", str(data), "--name", name, "--no-publish", *options]


def _run_of(home: Path, name: str) -> Path:
    [folder] = (home / "runs").glob(f"{name}-*")
    return folder


def _steps(home: Path, name: str) -> list[int]:
    files = list((home / "runs").glob(f"{name}-*/metrics.jsonl"))
    text = files[0].read_text() if files else ""
    return [json.loads(line)["step"] for line in text.splitlines() if line.endswith("}")]


def _digest(folder: Path) -> str:
    weights = (folder / "adapter" / "adapter_model.safetensors").read_bytes()
    return hashlib.sha256(weights).hexdigest()


def test_killed_and_resumed_it_ends_with_the_adapter_of_an_uninterrupted_run(
    e2e_home: Path, command: Callable[..., Any], tmp_path: Path
) -> None:
    data = tmp_path / "opl.jsonl"
    data.write_text("\n".join(ROWS.read_text().splitlines()[:6]) + "\n")
    once = command(*_arguments("once", data))
    assert once.returncode == 0, once.stderr
    process = subprocess.Popen(
        [sys.executable, "-m", "lorikeet", *_arguments("killed", data)],
        env={**os.environ, "LORIKEET_HOME": str(e2e_home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + LONGEST
        while 3 not in _steps(e2e_home, "killed"):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    folder = _run_of(e2e_home, "killed")
    listing = json.loads(command("runs", "list", "--json").stdout)
    assert {run["id"]: run["status"] for run in listing}[folder.name] == "killed"
    resumed = command("train", "--resume", folder.name, "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["training"]["steps"] == 6
    assert "resumed after step 2" in resumed.stderr
    assert _steps(e2e_home, "killed") == [1, 2, 3, 4, 5, 6]
    assert _digest(folder) == _digest(_run_of(e2e_home, "once"))
