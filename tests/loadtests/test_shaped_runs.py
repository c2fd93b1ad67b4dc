"""Locust with a shape or a rate, against a server whose delays are known."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from loadtests.answer import Answer
from loadtests.swarm import LOCUSTFILE

from .conftest import FIRST_SECONDS, GAP_SECONDS, PIECES, FakeServer

ANSWER_SECONDS = FIRST_SECONDS + (PIECES - 1) * GAP_SECONDS


def locust(
    host: str, folder: Path, *options: str
) -> tuple[subprocess.CompletedProcess[str], list[Answer]]:
    records = folder / "answers.jsonl"
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--host", host]
    command += ["--headless", "--only-summary", "--stop-timeout", "5", "--adapters", "red"]
    command += ["--exit-code-on-error", "0", "--records", str(records), *options]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    lines = records.read_text().splitlines() if records.exists() else []
    return run, [Answer.from_json(line) for line in lines]


def stages(folder: Path) -> list[tuple[str, float, float]]:
    document = json.loads((folder / "answers.course.json").read_text())
    return [(stage["name"], stage["begin"], stage["end"]) for stage in document["stages"]]


def most_at_once(answers: Sequence[Answer]) -> int:
    """Answers that were asked for and read at the same time."""
    times = [(answer.sent or answer.started, answer.arrivals[-1]) for answer in answers]
    return max(sum(begin <= now < end for begin, end in times) for now, _ in times)


def test_arrivals_do_not_wait_and_what_waits_for_a_place_counts_from_when_it_was_due(
    fake_server: FakeServer, tmp_path: Path
) -> None:
    options = ("--rate", "12", "--run-time", "3s", "--max-in-flight", "2")
    run, answers = locust(fake_server.url, tmp_path, *options)
    assert run.returncode == 0, run.stderr
    good = [answer for answer in answers if answer.error is None]
    unsent = [answer for answer in answers if answer.sent is None]
    # 36 are due in the mean, more than two places can answer.
    assert 15 <= len(answers) <= 65
    assert most_at_once(good) == 2
    assert len(good) + len(unsent) == len(answers)
    assert all("all 2 places were taken" in (answer.error or "") for answer in unsent)
    late = [answer.sent - answer.started for answer in good if answer.sent is not None]
    assert max(late) > ANSWER_SECONDS
    for answer in good:
        assert answer.ttft is not None
        assert answer.sent is not None
        assert answer.ttft >= answer.sent - answer.started + FIRST_SECONDS
        assert answer.prompt_tokens == 7
    [(name, begin, end)] = stages(tmp_path)
    assert name == "steady"
    assert end - begin == pytest.approx(3)
    assert all(begin <= answer.started < end for answer in answers)


def test_a_noisy_tenant_comes_and_goes_beside_a_quiet_one(
    fake_server: FakeServer, tmp_path: Path
) -> None:
    options = ["--shape", "noisy", "--users", "1", "--noise", "4", "--run-time", "6s"]
    options += ["--api-key", "calm", "--noisy-api-key", "loud"]
    run, answers = locust(fake_server.url, tmp_path, *options)
    assert run.returncode == 0, run.stderr
    assert {answer.tenant for answer in answers} == {"quiet", "noisy"}
    (_, _, first), (name, begin, end), _ = stages(tmp_path)
    assert (name, begin) == ("beside noise", first)
    noisy = [answer for answer in answers if answer.tenant == "noisy"]
    quiet = [answer for answer in answers if answer.tenant == "quiet"]
    assert most_at_once(noisy) == 4
    assert most_at_once(quiet) == 1
    assert min(a.started for a in quiet) < begin <= min(a.started for a in noisy)
    assert max(a.started for a in noisy) < max(a.started for a in quiet)
    assert end < max(a.started for a in quiet)
    assert fake_server.authorizations == {"Bearer calm", "Bearer loud"}


def test_lengths_from_a_file_and_readers_who_leave(fake_server: FakeServer, tmp_path: Path) -> None:
    file = tmp_path / "lengths.json"
    file.write_text('{"lengths": [{"prompt": 40, "output": 9}]}')
    options = ["--shape", "steady", "--users", "2", "--run-time", "2s"]
    run, answers = locust(
        fake_server.url, tmp_path, *options, "--lengths", str(file), "--leave-share", "1"
    )
    assert run.returncode == 0, run.stderr
    assert answers
    assert all(answer.left and answer.error is None for answer in answers)
    assert {len(answer.arrivals) for answer in answers} == {3}
    assert {body["max_tokens"] for body in fake_server.bodies} == {9}
    words = [len(body["messages"][0]["content"].split()) for body in fake_server.bodies]
    assert set(words) == {33}


def test_a_run_stops_at_its_highest_number_of_requests(
    fake_server: FakeServer, tmp_path: Path
) -> None:
    options = ["--shape", "steady", "--users", "2", "--run-time", "30s", "--max-requests", "3"]
    run, answers = locust(fake_server.url, tmp_path, *options)
    assert "as many as --max-requests" in run.stderr
    assert 3 <= len(answers) <= 20
    [(_, begin, end)] = stages(tmp_path)
    assert end - begin < 25
    course = json.loads((tmp_path / "answers.course.json").read_text())
    assert course["cut_short"] == "as many requests as --max-requests 3"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--shape", "ramp"], "need --run-time"),
        (["--shape", "noisy", "--run-time", "9s"], "needs --noise"),
        (["--rate", "101", "--run-time", "9s"], "--max-rate 100"),
        (["--shape", "noisy", "--noise", "64", "--users", "1", "--run-time", "9s"], "--max-users"),
        (["--rate", "1", "--run-time", "9s", "--lengths", "/nowhere.json"], "cannot read"),
    ],
)
def test_what_could_not_be_meant_is_refused(tmp_path: Path, options: list[str], said: str) -> None:
    run, _ = locust("http://127.0.0.1:9", tmp_path, *options)
    assert run.returncode == 2
    assert said in run.stderr
