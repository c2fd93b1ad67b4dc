"""A run that is killed with SIGKILL, anywhere and again and again, ends as if it never was."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from registry import Registry, RegistrySettings
from train.runs.folder import RunFolder

ROOT = Path(__file__).parents[3]
DRIVER = Path(__file__).with_name("killed_runs.py")
KILLED = -9
ROWS = [
    {
        "prompt": f"What colour is thing {n}?" + " Say it." * (n % 4),
        "completion": ("blue", "white")[n % 2],
    }
    for n in range(24)
]
COMMON = (
    "threads=1",
    "batch_size=2",
    "rank=4",
    "learning_rate=0.02",
    "baselines=false",
    "eval_fraction=0.25",
)
# 18 rows: 9 batches and 5 steps an epoch, 10 steps; the last step of an epoch is a short one.
PLAIN = (*COMMON, "gradient_accumulation=2", "epochs=2", "dropout=0.2", "checkpoint_steps=3")
STOPPED = (*COMMON, "epochs=4", "dropout=0.1", "held_out_steps=2", "early_stopping=2")
PACKED = (*COMMON, "packing=true", "max_length=128", "epochs=3", "optimizer=adamw_8bit")
PLANS = {
    "plain": (
        PLAIN,
        # Before the first checkpoint; in the middle of one; of one but for its marker; with the
        # next one whole and the last one not yet removed; at the very end; after the last step;
        # after publishing.
        [
            ["step", 2],
            ["writing", 3],
            ["unsealed", 6],
            ["sealed", 6],
            ["unsealed", 10],
            ["trained", 0],
            ["published", 0],
        ],
    ),
    "stopped": (STOPPED, [["step", 3], ["unsealed", 6], ["step", 7], ["trained", 0]]),
    "packed": (PACKED, [["step", 5], ["writing", 6]]),
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> dict[str, dict[str, Any]]:
    """Each plan's run uninterrupted, as `<plan>-once`, and killed, as `<plan>-killed`."""
    home = tmp_path_factory.mktemp("resume")
    data = home / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    plans = [
        {
            "name": f"{name}-{how}",
            "settings": settings,
            "data": str(data),
            "base": str(tiny_base),
            "kills": kills if how == "killed" else [],
        }
        for name, (settings, kills) in PLANS.items()
        for how in ("once", "killed")
    ]
    plan = home / "plan.json"
    plan.write_text(json.dumps(plans))
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(plan)],
        cwd=ROOT,
        env={**os.environ, "LORIKEET_HOME": str(home / "home"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {"home": {"folder": str(home / "home")}, **json.loads(done.stdout.splitlines()[-1])}


def _digest(folder: RunFolder) -> str:
    return hashlib.sha256((folder.adapter / "adapter_model.safetensors").read_bytes()).hexdigest()


def _lines(folder: RunFolder) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def _scores(folder: RunFolder) -> dict[str, Any]:
    """The evaluation but for how long an answer took."""
    evaluation: dict[str, Any] = json.loads(folder.evaluation.read_text())
    assert evaluation["adapter"].pop("seconds") > 0
    return evaluation


@pytest.mark.parametrize("name", PLANS)
def test_a_killed_run_ends_with_the_same_adapter_bit_for_bit(
    ended: dict[str, dict[str, Any]], name: str
) -> None:
    once, killed = ended[f"{name}-once"], ended[f"{name}-killed"]
    kills = PLANS[name][1]
    assert once["codes"] == [0]
    assert killed["codes"] == [*[KILLED] * len(kills), 0]
    left, right = RunFolder(Path(once["folder"])), RunFolder(Path(killed["folder"]))
    assert _digest(left) == _digest(right)
    assert (left.adapter / "adapter_config.json").read_bytes() == (
        right.adapter / "adapter_config.json"
    ).read_bytes()
    assert _lines(left) == _lines(right)
    steps = [line["step"] for line in _lines(right) if "loss" in line]
    assert steps == list(range(1, len(steps) + 1))
    assert _scores(left) == _scores(right)
    record = right.record
    assert (record.status, record.resumed, record.error) == ("succeeded", len(kills), None)
    assert not right.checkpoints.exists()


@pytest.mark.parametrize("name", PLANS)
def test_it_is_published_once(ended: dict[str, dict[str, Any]], name: str) -> None:
    with Registry.open(RegistrySettings(home=Path(ended["home"]["folder"]))) as registry:
        versions = [v for v in registry.list() if v.name == f"{name}-killed"]
    assert [version.reference for version in versions] == [f"{name}-killed@1"]
    folder = RunFolder(Path(ended[f"{name}-killed"]["folder"]))
    assert folder.record.version == f"{name}-killed@1"
    training = versions[0].manifest.training
    assert training is not None
    assert training["run"] == folder.id


def test_early_stopping_keeps_the_best_checkpoint_and_says_so(
    ended: dict[str, dict[str, Any]],
) -> None:
    folder = RunFolder(Path(ended["stopped-killed"]["folder"]))
    measured = {
        line["step"]: line["held_out_loss"] for line in _lines(folder) if "held_out_loss" in line
    }
    best = min(measured, key=measured.__getitem__)
    last = max(measured)
    assert last == best + 2 * 2  # two measurements, two steps apart, that are no better
    assert last < 36
    with Registry.open(RegistrySettings(home=Path(ended["home"]["folder"]))) as registry:
        manifest = registry.get("stopped-killed").manifest
    assert manifest.training is not None
    assert manifest.training["steps"] == last
    assert manifest.training["checkpoint"] == {
        "step": best,
        "held_out_loss": measured[best],
        "measurements": len(measured),
        "chosen_on": "the held-out rows of the evaluation",
    }
    assert manifest.evaluation is not None
    assert manifest.evaluation["adapter"]["loss"] == pytest.approx(measured[best], rel=1e-6)
