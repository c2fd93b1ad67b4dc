"""`lorikeet worker`: its options, and signals."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner
from worker_world import World, wait_until

from lorikeet import app
from registry import UsageError
from train.worker.settings import WorkerSettings
from train.worker.window import Window

ROOT = Path(__file__).parents[3]


def test_every_wrong_option_is_told_at_once(home: Path) -> None:
    done = CliRunner().invoke(app, ["worker", "--train-window", "22", "--devices", "cpu,0"])
    assert isinstance(done.exception, UsageError)
    assert "--train-window: '22' is no window of time: write 22:00-06:00" in done.exception.message
    assert "--devices: auto, cpu, or the numbers of GPUs" in done.exception.message


def test_the_environment_sets_options_too_and_the_flag_wins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LORIKEET_WORKER_DEVICES", "0,1")
    monkeypatch.setenv("LORIKEET_WORKER_TRAIN_WINDOW", "22:00-06:00")
    monkeypatch.setenv("LORIKEET_WORKER_NICE", "10")
    settings = WorkerSettings(nice=3)
    assert settings.devices == ("0", "1")
    assert settings.train_window == Window.parse("22:00-06:00")
    assert settings.nice == 3


def test_a_worker_ends_on_sigterm(world: World) -> None:
    command = [sys.executable, "-m", "lorikeet", "worker", "--devices", "cpu", "--name", "short"]
    process = subprocess.Popen(command, cwd=ROOT, env=dict(os.environ))
    try:
        [seen] = wait_until(world.registry.queue.workers)
        assert (seen.name, seen.devices, seen.doing) == ("short", ["cpu"], "waiting for jobs")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert world.registry.queue.workers() == []
    finally:
        process.kill()
        process.wait()


def test_once_ends_when_there_is_nothing_to_do(home: Path) -> None:
    done = CliRunner().invoke(app, ["worker", "--once", "--devices", "cpu"])
    assert done.exit_code == 0, done.output
