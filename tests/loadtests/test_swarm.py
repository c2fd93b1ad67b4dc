"""Locust as a child: it is bounded, stopped when told, and never left behind."""

import time
from pathlib import Path

import psutil
import pytest

from loadtests import swarm as swarms
from loadtests.plan import LoadPlan
from loadtests.swarm import Crowd, Swarm
from registry import LorikeetError

from .conftest import FakeServer


def test_a_swarm_that_is_stopped_ends_and_keeps_its_answers(
    fake_server: FakeServer, tmp_path: Path
) -> None:
    crowd = Crowd(users=2, seconds=60, drain_seconds=5)
    begin = time.monotonic()
    with Swarm(crowd, fake_server.url, ["--adapters", "red"], tmp_path / "red.jsonl") as swarm:
        assert not swarm.wait(4)
        swarm.stop()
        answers = swarm.join()
    assert time.monotonic() - begin < 30
    assert answers
    assert len(answers) == len(fake_server.asked)
    assert all(answer.error is None for answer in answers)


def test_leaving_the_context_ends_it(fake_server: FakeServer, tmp_path: Path) -> None:
    crowd = Crowd(users=1, seconds=60)
    swarm = Swarm(crowd, fake_server.url, ["--adapters", "red"], tmp_path / "red.jsonl")
    with swarm:
        child = psutil.Process(swarm._process.pid)
        assert child.is_running()
    assert not child.is_running()


@pytest.mark.parametrize("rate", [0.0, 2.0], ids=["closed", "open"])
def test_a_server_that_hangs_at_the_end_costs_its_own_answers_alone(
    fake_server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float
) -> None:
    """Their time is over once, though --max-seconds comes meanwhile."""
    monkeypatch.setattr(swarms, "SLACK_SECONDS", 8)
    options = LoadPlan("steady", users=2, rate=rate, seconds=2, adapters=["hung"]).options()
    crowd = Crowd(users=2, seconds=2, drain_seconds=9)
    with Swarm(crowd, fake_server.url, options, tmp_path / "hung.jsonl") as swarm:
        answers = swarm.join()
    assert len(fake_server.asked) == len(answers) > 0
    assert {answer.error for answer in answers} == {"cut off when the run ended"}


def test_its_failure_names_the_command(tmp_path: Path) -> None:
    crowd = Crowd(users=1, seconds=1)
    swarm = Swarm(crowd, "http://192.0.2.7:1", ["--adapters", "red"], tmp_path / "red.jsonl")
    with swarm, pytest.raises(LorikeetError, match="--allow-remote") as raised:
        swarm.join()
    assert raised.value.remedy is not None
    assert "locustfile.py" in raised.value.remedy
