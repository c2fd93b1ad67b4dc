"""The locustfile as its users run it, against a server whose figures are known."""

import json
import re
import subprocess
import sys
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest

import loadtests
from loadtests.answer import Answer

from .conftest import FIRST_SECONDS, GAP_SECONDS, PIECES, TOKENS_A_PIECE, FakeServer

LOCUSTFILE = Path(loadtests.__file__).parent / "locustfile.py"
ANSWER_SECONDS = FIRST_SECONDS + (PIECES - 1) * GAP_SECONDS
SLACK_SECONDS = 0.15
"""How late a busy machine may be."""


def locust(
    host: str, *options: str, users: int = 2, seconds: str = "3s"
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--host", host]
    command += ["--headless", "--only-summary", "--users", str(users), "--spawn-rate", str(users)]
    command += ["--run-time", seconds, "--stop-timeout", "5", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def entries(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Locust's own statistics by kind and model."""
    return {(entry["method"], entry["name"]): entry for entry in json.loads(path.read_text())}


def test_locust_reports_first_token_gaps_and_tokens(
    fake_server: FakeServer, tmp_path: Path
) -> None:
    records, stats = tmp_path / "records.jsonl", tmp_path / "stats"
    run = locust(
        fake_server.url,
        *("--adapters", "red,blue", "--pinned", "--records", str(records)),
        *("--json-file", str(stats)),
    )
    assert run.returncode == 0, run.stderr

    answers = [Answer.from_json(line) for line in records.read_text().splitlines()]
    assert {answer.model for answer in answers} == {"red", "blue"} == set(fake_server.asked)
    assert len(answers) == len(fake_server.asked) >= 4
    for answer in answers:
        assert answer.error is None
        assert answer.tokens == PIECES * TOKENS_A_PIECE
        assert len(answer.arrivals) == PIECES
        assert answer.ttft is not None
        assert answer.ttft >= FIRST_SECONDS
    ttfts = [answer.ttft for answer in answers if answer.ttft is not None]
    assert median(ttfts) < FIRST_SECONDS + SLACK_SECONDS
    gaps = sorted(gap for answer in answers for gap in answer.gaps)
    assert gaps[len(gaps) // 2] == pytest.approx(GAP_SECONDS, abs=0.01)

    by_kind = entries(stats.with_suffix(".json"))
    for model in ("red", "blue"):
        own = [answer for answer in answers if answer.model == model]
        whole = by_kind["answer", model]
        assert whole["num_requests"] == len(own)
        assert whole["num_failures"] == 0
        assert whole["total_content_length"] == len(own) * PIECES * TOKENS_A_PIECE
        assert by_kind["ITL", model]["num_requests"] == len(own) * (PIECES - 1)
        average = by_kind["TTFT", model]["total_response_time"] / len(own)
        own_ttfts = [answer.ttft for answer in own if answer.ttft is not None]
        assert average / 1000 == pytest.approx(fmean(own_ttfts), abs=0.02)

    said = re.search(r"output tokens/s: ([\d.]+) \((\d+) tokens", run.stderr)
    assert said is not None, run.stderr
    assert int(said[2]) == len(answers) * PIECES * TOKENS_A_PIECE
    fastest = 2 * PIECES * TOKENS_A_PIECE / ANSWER_SECONDS
    assert 0.3 * fastest < float(said[1]) <= 1.05 * fastest


def test_the_adapters_are_those_that_the_server_lists(fake_server: FakeServer) -> None:
    run = locust(fake_server.url, users=4, seconds="4s")
    assert run.returncode == 0, run.stderr
    assert set(fake_server.asked) == {"red", "blue"}


def test_a_refused_request_and_a_broken_stream_are_failures(
    fake_server: FakeServer, tmp_path: Path
) -> None:
    records = tmp_path / "records.jsonl"
    run = locust(
        f"{fake_server.url}/v1",
        *("--adapters", "unknown,broken", "--pinned", "--records", str(records)),
        seconds="1s",
    )
    assert run.returncode == 1
    errors = {
        answer.model: answer.error
        for answer in map(Answer.from_json, records.read_text().splitlines())
    }
    assert errors["unknown"] is not None
    assert "HTTP 404" in errors["unknown"]
    assert errors["broken"] is not None
    assert "stopped before [DONE]" in errors["broken"]


@pytest.mark.parametrize(
    ("host", "options", "said"),
    [
        ("http://192.0.2.7:8000", [], "--allow-remote"),
        ("http://127.0.0.1:9", ["--max-users", "1"], "--users 2 is over --max-users 1"),
        ("http://127.0.0.1:9", ["--max-seconds", "1"], "--run-time 3s is over --max-seconds 1"),
        ("http://127.0.0.1:9", ["--base-share", "0.5"], "--base-share needs --base-model"),
        ("http://127.0.0.1:9", ["--zipf=-1"], "--zipf must not be negative"),
    ],
)
def test_what_could_do_harm_is_refused_before_anything_is_sent(
    host: str, options: list[str], said: str
) -> None:
    run = locust(host, *options)
    assert run.returncode == 2
    assert said in run.stderr
