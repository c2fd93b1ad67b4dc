"""The order of things, on the echo engine: a stand-in for stock's server, and ours."""

import functools
import json
from pathlib import Path

import psutil
import pytest

from loadtests import contest, fairness, training
from loadtests.contest import Contest
from loadtests.results import Results
from loadtests.scope import Scope
from loadtests.servers import BOUND, OURS, STOCK, Capacity, ServerPlan, lorikeet_plan
from loadtests.starts import OURS_MANY
from loadtests.throughput import BASE, MANY, ONE, ZIPF
from loadtests.training import PLAIN
from registry import RegistrySettings, resolve_base

SCOPE = Scope(
    users=2,
    seconds=1,
    rounds=1,
    max_tokens=4,
    slots=2,
    starts=1,
    pairs=2,
    cold_loads=3,
    cold_rounds=1,
    training_rows=4,
    training_epochs=1,
    held_out_rows=3,
)
CAPACITY = Capacity("float32", 2, 8, 32, 512, 0.1)


@pytest.fixture
def run(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> "Run":
    """What runs a contest with these servers and sections."""
    monkeypatch.setenv("LORIKEET_SERVE_ENGINE", "echo")
    monkeypatch.setattr(fairness, "SETTLE_SECONDS", 1)
    monkeypatch.setattr(contest, "ADAPTERS", 150)

    def stand_in(
        name: str,
        base: Path,
        model: str,
        adapters: dict[str, Path],
        capacity: Capacity,
        *,
        cpu: bool,
    ) -> ServerPlan:
        home = next(iter(adapters.values())).parents[2] if adapters else tmp_path / "nothing"
        return lorikeet_plan(name, base, home, capacity)

    monkeypatch.setattr(contest, "stock_plan", stand_in)
    return Run(tmp_path, tiny_base)


class Run:
    """Contests in a folder of the test's own."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder = folder
        self.base = base
        self.said: list[str] = []
        self.results = Results({})
        self.json = folder / "bench.json"

    def __call__(self, servers: list[str], sections: list[str]) -> Results:
        output = self.folder / "output"
        output.mkdir()
        Contest(
            base=resolve_base(self.base, RegistrySettings()),
            capacity=CAPACITY,
            scope=SCOPE,
            servers=servers,
            sections=sections,
            folder=self.folder,
            output=output,
            results=self.results,
            say=self.said.append,
            save=lambda: self.results.write(self.json),
            cpu=True,
        ).run()
        return self.results


def test_every_section_on_running_servers(run: Run) -> None:
    before = set(psutil.Process().children(recursive=True))
    results = run(["stock", "ours"], ["zipf", "cpu", "cold", "churn", "fairness"])
    assert results.problems == []
    assert list(results.servers) == [STOCK, OURS]
    assert [(turn.server, turn.traffic) for turn in results.turns] == [(STOCK, ZIPF), (OURS, ZIPF)]
    assert all(turn.figures.failures == 0 for turn in results.turns)
    assert [load.server for load in results.loads] == [STOCK, STOCK, OURS, OURS]
    assert len(results.pairs) == SCOPE.pairs
    assert all(pair.cold and pair.warm for pair in results.pairs)
    assert [phase.requests for phase in results.phases] == [0, 3, 3, 3]
    assert sum(phase.failures for phase in results.phases) == 0
    assert [quiet.server for quiet in results.quiets] == [STOCK, OURS]
    assert all(quiet.ttfts and not quiet.failures for quiet in results.quiets)
    assert [shares.server for shares in results.shares] == [OURS]
    assert json.loads(run.json.read_text())["shares"]
    assert set(psutil.Process().children(recursive=True)) <= before


def test_traffic_in_turns_and_a_server_bound_to_all_cores(run: Run) -> None:
    results = run(["bound"], ["throughput", "zipf"])
    assert results.problems == []
    assert [(turn.server, turn.traffic) for turn in results.turns] == [
        (BOUND, BASE),
        (BOUND, ONE),
        (BOUND, MANY),
    ]
    assert "VLLM_CPU_OMP_THREADS_BIND" in results.servers[BOUND]["environment"]


def test_starts_with_none_and_with_many(run: Run) -> None:
    results = run(["stock", "ours"], ["start", "scale"])
    assert results.problems == []
    assert [start.server for start in results.starts] == [STOCK, OURS, OURS_MANY]
    none, many = results.starts[1:]
    assert (none.models, many.models) == (1, 1 + 2 * 150)
    assert len(many.first_pass) == 4
    assert all(start.seconds > 0 and start.resident_mib > 20 for start in results.starts)


def test_training_needs_no_server(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "BATCH_SIZE", 2)
    two = functools.partial(training.TrainingContest, trainers=(PLAIN, OURS))
    monkeypatch.setattr(contest, "TrainingContest", two)
    results = run(["stock", "ours"], ["training"])
    assert results.problems == []
    assert results.servers == {}
    assert [each.trainer for each in results.trainings] == [PLAIN, OURS]
    assert {each.rows for each in results.trainings} == {4}
    assert all(each.seconds < each.process_seconds for each in results.trainings)
    assert all(each.peak_mib > 100 for each in results.trainings)
    # The base is random: the loss of its answers is about ln(49152), and falls.
    assert all(each.held_out_loss < each.base_loss for each in results.trainings)
    assert all(9 < each.base_loss < 12 for each in results.trainings)
    assert json.loads(run.json.read_text())["trainings"][1]["trainer"] == OURS
    lost = [verdict.value for verdict in results.verdicts() if "training:" in verdict.promise]
    assert len(lost) == 3
    assert all(value > 0 for value in lost)


def test_a_server_that_does_not_start_is_noted_and_the_next_one_goes_on(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str, *_: object, **__: object) -> ServerPlan:
        return ServerPlan(name, ("python", "-c", "raise SystemExit('no such flag')"), "/health")

    monkeypatch.setattr(contest, "stock_plan", broken)
    results = run(["stock", "ours"], ["start"])
    assert [start.server for start in results.starts] == [OURS]
    assert len(results.problems) == 1
    assert "no such flag" in results.problems[0]
    assert json.loads(run.json.read_text())["problems"] == results.problems
