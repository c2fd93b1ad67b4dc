"""The commands for one run of load: on any OpenAI server, and on one of their own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtests import leaks, soak
from loadtests.answer import Answer
from loadtests.load import SCENARIOS
from loadtests.plan import LoadPlan, LoadRun
from loadtests.shapes import SHAPES, Passed

from .conftest import FakeServer


def load(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtests.load", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def report(output: Path) -> dict[str, Any]:
    [folder] = output.iterdir()
    assert "<img" in (folder / "report.html").read_text()
    document: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return document


def test_any_openai_server_can_be_loaded(fake_server: FakeServer, tmp_path: Path) -> None:
    """One that has no route but the models and the chat."""
    run = load(
        *("steady", "--url", f"{fake_server.url}/v1", "--rate", "6", "--seconds", "2"),
        *("--output", str(tmp_path)),
    )
    assert run.returncode == 0, run.stdout + run.stderr
    document = report(tmp_path)
    assert document["load"]["loop"].startswith("open")
    assert document["total"]["failures"] == 0
    assert document["total"]["requests"] == len(fake_server.asked) > 0
    assert set(document["models"]["figures"]) <= {"red", "blue"}
    assert document["machine"]["versions"]["locust"]


def test_a_server_that_lists_no_adapter_is_asked_for_what_it_lists(
    fake_server: FakeServer, tmp_path: Path
) -> None:
    """Stock servers have no parents in their lists; and an end before the time is told."""
    fake_server.listed = [("llama", None)]
    run = load(
        *("steady", "--url", fake_server.url, "--users", "1", "--seconds", "20"),
        *("--max-requests", "2", "--output", str(tmp_path)),
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert set(fake_server.asked) == {"llama"}
    told = "The run ended before its time: as many requests as --max-requests 2."
    assert told in run.stdout
    assert report(tmp_path)["cut_short"] in told
    assert told in (next(tmp_path.iterdir()) / "report.html").read_text()


def test_why_nobody_could_ask_is_told(fake_server: FakeServer, tmp_path: Path) -> None:
    fake_server.listed = []
    run = load(
        *("steady", "--url", fake_server.url, "--seconds", "20", "--output", str(tmp_path)),
    )
    assert run.returncode == 1
    said = " ".join((run.stdout + run.stderr).split())
    assert "lists no model: name some with --adapters (--models of loadtests.load)" in said


def test_a_scenario_on_its_own_server_misses_an_objective(tiny_base: Path, tmp_path: Path) -> None:
    slo = tmp_path / "slo.yaml"
    slo.write_text(
        "objectives:\n  - {figure: failures, at_most: 0}\n"
        "  - {figure: requests, at_least: 1000000, stage: steady}\n"
    )
    run = load(
        *("steady", "--engine", "echo", "--base", str(tiny_base), "--adapters", "3"),
        *("--seconds", "2", "--slo", str(slo), "--output", str(tmp_path / "out")),
    )
    assert run.returncode == 1, run.stdout + run.stderr
    document = report(tmp_path / "out")
    assert [verdict["kept"] for verdict in document["verdicts"]] == [True, False]
    assert document["models"]["asked"] == 3
    assert document["load"]["adapters"] == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["storm"], "choose of steady"),
        (["steady", "--lengths", "/nowhere.json"], "cannot read /nowhere.json"),
        (["steady", "--slo", "/nowhere.yaml"], "cannot read /nowhere.yaml"),
        (["steady", "--url", "http://192.0.2.7:1", "--seconds", "2"], "--allow-remote"),
    ],
)
def test_what_cannot_be_is_said_at_once(tmp_path: Path, options: list[str], said: str) -> None:
    run = load(*options, "--output", str(tmp_path))
    assert run.returncode != 0
    assert said in " ".join((run.stdout + run.stderr).split())


def test_a_soak_finds_nothing_lost(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak, "WARM_SECONDS", (1, 1))
    monkeypatch.setattr(leaks, "STILL_SECONDS", 0.5)
    monkeypatch.setattr(soak, "SHORTEST_INTERVAL", 0.2)
    code: Any = 0
    try:
        soak.soak(
            minutes=0.07,
            users=4,
            url="",
            pid=None,
            allow_remote=False,
            lengths=soak.DEFAULT_LENGTHS,
            leave_share=0.2,
            base=str(tiny_base),
            engine="echo",
            adapters=6,
            max_loras=2,
            output=tmp_path,
        )
    except SystemExit as ended:
        code = ended.code
    document = report(tmp_path)
    verdicts = {verdict["promise"]: verdict for verdict in document["verdicts"]}
    memory = verdicts.pop("memory of the server, growth in the second half")
    assert code == (0 if memory["kept"] else 1)  # a few seconds say nothing about memory
    assert memory["value"] is not None
    assert all(verdict["kept"] for verdict in verdicts.values()), verdicts
    assert "failed requests" in verdicts
    assert "file descriptors of the server at rest, more" in verdicts
    assert document["total"]["left"] > 0
    assert len(document["samples"]) >= 8


def test_a_soak_of_another_server_names_what_it_cannot_see(
    fake_server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = (Answer("red", 1.0, (1.5, 2.0), 2),)
    ran = LoadRun(answers, (Passed("steady", 1, 0, 1.0, 3.0),), saturated=False)
    monkeypatch.setattr(LoadPlan, "run", lambda *_, **__: ran)
    monkeypatch.setattr(leaks, "REST_SECONDS", 0)
    fake_server.metrics = "lorikeet_leases 1.0\n"
    with pytest.raises(SystemExit):
        soak.soak(
            minutes=0.01,
            users=1,
            url=fake_server.url,
            pid=None,
            allow_remote=False,
            lengths=soak.DEFAULT_LENGTHS,
            leave_share=0.0,
            base="",
            engine="",
            adapters=1,
            max_loras=1,
            output=tmp_path,
        )
    document = report(tmp_path)
    missed = [verdict["promise"] for verdict in document["verdicts"] if not verdict["kept"]]
    assert missed == ["leases at rest"]
    assert len(document["skipped"]) == 3


def test_every_scenario_has_a_shape() -> None:
    assert {scenario.shape for scenario in SCENARIOS.values()} <= set(SHAPES)
    assert SCENARIOS["churn"].adapters == 1000
