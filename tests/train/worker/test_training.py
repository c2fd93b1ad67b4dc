"""Real trainings by real children: a model in the end, whatever happens on the way."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from child_processes import Forked
from worker_world import World, at_work, wait_until

from registry.finetuning.objects import Job
from train.runs.checkpoints import Checkpoints
from train.runs.folder import RunFolder
from train.runs.metrics import Metrics

ROOT = Path(__file__).parents[3]
LONG: dict[str, Any] = {
    "seed": 7,
    "hyperparameters": {"n_epochs": 6, "batch_size": 4, "learning_rate_multiplier": 20},
    "lorikeet": {"rank": 4, "dropout": 0.1, "baselines": False},
}


@pytest.fixture(scope="module")
def finished(lasting: World, forked: Forked) -> Job:
    """A job that was trained without an interruption."""
    job = lasting.job(suffix="once", **LONG)
    lasting.work(forked)
    return lasting.now(job)


@pytest.fixture
def digest(lasting: World) -> Callable[[Job], str]:
    """The SHA-256 of the weights that a job made."""

    def of(job: Job) -> str:
        reference = lasting.now(job).reference
        assert reference is not None
        weights = lasting.registry.get(reference).path / "adapter_model.safetensors"
        return hashlib.sha256(weights.read_bytes()).hexdigest()

    return of


def test_a_file_becomes_a_model_with_its_figures(lasting: World, finished: Job) -> None:
    assert (finished.status, finished.error) == ("succeeded", None)
    run = RunFolder(lasting.registry.settings.runs / finished.id)
    lines = [line for line in Metrics(run.metrics).lines() if "loss" in line]
    steps = len(lines)
    assert finished.trained_tokens == lines[-1]["tokens"]
    events = lasting.registry.jobs.events("acme", finished.id, limit=1000).data[::-1]
    metrics = [event for event in events if event.type == "metrics"]
    assert [event.data["step"] for event in metrics if event.data] == list(range(1, steps + 1))
    first, last = metrics[0].data, metrics[-1].data
    assert first is not None
    assert last is not None
    assert last["train_loss"] < first["train_loss"] - 0.5
    assert 0 <= first["train_mean_token_accuracy"] < last["train_mean_token_accuracy"] <= 1
    assert last["valid_loss"] == last["full_valid_loss"] > 0
    assert metrics[0].message == f"Step 1/{steps}: training loss={first['train_loss']:.2f}"
    messages = [event.message for event in events]
    assert any(text.startswith("Evaluation on 2 held-out rows: ") for text in messages)
    checkpoints = lasting.registry.jobs.checkpoints("acme", finished.id).data
    assert [model.step for model in checkpoints] == [steps, steps * 5 // 6, steps * 4 // 6]
    assert finished.fine_tuned_model is not None
    version = lasting.registry.get(finished.fine_tuned_model)
    for model in checkpoints:
        at = lasting.registry.get(model.name)
        assert (at.tenant, at.name) == ("acme", f"{finished.adapter}.steps")
        assert (at.digest == version.digest) is (model.step == steps)
        assert model.metrics is not None
        told = next(event.data for event in metrics if event.data["step"] == model.step)
        assert model.metrics.items() <= told.items()
    assert version.manifest.evaluation is not None
    assert not run.epochs.exists()
    [result] = finished.result_files
    file = lasting.registry.files.get("acme", result)
    rows = lasting.registry.files.path(file).read_text().splitlines()
    assert len(rows) == steps + 1
    assert rows[-1].split(",")[0] == str(steps)
    assert float(rows[-1].split(",")[3]) == pytest.approx(last["valid_loss"])


def _steps(world: World, job: Job) -> int:
    run = RunFolder(world.registry.settings.runs / job.id)
    return len(Metrics(run.metrics).losses())


def test_a_job_is_paused_resumed_and_its_worker_killed_and_the_model_is_the_same(
    lasting: World,
    forked: Forked,
    finished: Job,
    digest: Callable[[Job], str],
) -> None:
    world, home = lasting, lasting.registry.settings.home
    job = world.queued(suffix="often", **LONG)
    world.registry.jobs.pause("acme", job.id)
    claims = world.registry.jobs
    checkpoints = Checkpoints(RunFolder(world.registry.settings.runs / job.id).checkpoints)
    with at_work(world.worker(forked)):
        claims.resume("acme", job.id)
        wait_until(lambda: _steps(world, job) >= 4)
        claims.pause("acme", job.id)
        wait_until(lambda: world.now(job).worker is None)
        assert world.now(job).status == "paused"
        stopped = checkpoints.latest()
        assert stopped is not None
        assert stopped.step == _steps(world, job)  # the step was ended, and saved
    claims.resume("acme", job.id)
    variables = {
        "LORIKEET_DATABASE_URL": "",
        "LORIKEET_HOME": str(home),
        "LORIKEET_WORKER_LEASE_SECONDS": "1",
        "LORIKEET_WORKER_POLL_SECONDS": "0.1",
    }
    command = [sys.executable, "-m", "lorikeet", "worker", "--devices", "cpu", "--name", "killed"]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **variables})
    try:
        wait_until(lambda: _steps(world, job) >= stopped.step + 3)
        children = psutil.Process(process.pid).children()
        assert [child.name() for child in children] != []
        os.kill(process.pid, signal.SIGKILL)
        psutil.wait_procs(children, timeout=30)
        assert not any(child.is_running() for child in children)
    finally:
        process.kill()
        process.wait()
    assert world.now(job).status == "running"
    wait_until(lambda: (world.work(forked, name="heir"), world.now(job).finished)[1])
    done = world.now(job)
    assert (done.status, done.error) == ("succeeded", None)
    assert digest(job) == digest(finished)
    assert done.trained_tokens == finished.trained_tokens
    events = world.registry.jobs.events("acme", job.id, limit=1000).data
    steps = [event.data["step"] for event in events if event.type == "metrics" and event.data]
    assert steps == list(range(len(steps), 0, -1))
    names = [model.step for model in world.registry.jobs.checkpoints("acme", job.id).data]
    once = [model.step for model in world.registry.jobs.checkpoints("acme", finished.id).data]
    assert names == once
    assert world.registry.get(f"{job.adapter}@latest").number == 1


def test_a_job_that_is_cancelled_in_training_leaves_no_process_and_no_run(
    lasting: World, forked: Forked, finished: Job
) -> None:
    job = lasting.queued(suffix="never", **LONG)
    with at_work(lasting.worker(forked)):
        wait_until(lambda: _steps(lasting, job) >= 2)
        lasting.registry.jobs.cancel("acme", job.id)
        wait_until(lambda: lasting.now(job).worker is None)
    assert not psutil.pid_exists(forked.pids[-1])
    assert not (lasting.registry.settings.runs / job.id).exists()
    assert all(version.name != job.adapter for version in lasting.registry.list())


def test_a_training_that_diverges_fails_with_what_to_do(lasting: World, forked: Forked) -> None:
    job = lasting.queued(
        suffix="inf", hyperparameters={"learning_rate_multiplier": 100}, lorikeet={"alpha": 1e38}
    )
    lasting.work(forked)
    error = lasting.now(job).error
    assert error is not None
    assert (error["code"], error["param"]) == ("training_diverged", "learning_rate_multiplier")
    assert str(lasting.registry.settings.home) not in error["message"]


def test_the_worker_itself_never_loads_a_training_library() -> None:
    code = (
        "import sys, train.worker.worker, train.worker.cli; "
        "print(sorted({'torch', 'transformers', 'trl'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
