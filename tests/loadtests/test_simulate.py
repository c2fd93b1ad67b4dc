"""The simulation against queueing theory, and what it must do whatever the figures."""

import json
import logging
import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from loadtests import simulate as command
from loadtests.lengths import Length, Lengths
from loadtests.simulation.fleet import POLICIES, fewest_replicas, figures, simulate
from loadtests.simulation.replica import Capacity
from loadtests.simulation.timing import Measured, Step, Timing
from loadtests.simulation.trace import Request, drawn, read_trace, write_trace
from registry import UsageError
from serve import access_log, logs
from serve.finished_request import FinishedRequest

SHORT = Lengths([Length(16, 8)])
NAMES = [f"adapter-{number:03}" for number in range(64)]


def timing(*steps: tuple[int, int, float], load: float = 0.0, overhead: float = 0.0) -> Timing:
    measured = [Step(batch=batch, adapters=adapters, seconds=s) for batch, adapters, s in steps]
    return Timing(
        Measured(
            steps=tuple(measured),
            cold_load_seconds=load,
            prompt_token_seconds=0.0,
            overhead_seconds=overhead,
        )
    )


def erlang_c(servers: int, offered: float) -> float:
    """The probability that a request waits in an M/M/c queue."""
    terms = [offered**k / math.factorial(k) for k in range(servers)]
    last = offered**servers / math.factorial(servers) * servers / (servers - offered)
    return last / (sum(terms) + last)


def test_the_wait_for_a_seat_is_that_of_an_m_m_c_queue() -> None:
    """Answers of a geometric length on an engine that a batch does not slow down."""
    seats, rate, mean, step = 4, 3.2, 20, 0.05
    source, now, trace = random.Random(7), 0.0, []
    for _ in range(12_000):
        now += source.expovariate(rate)
        length = 1 + int(math.log(1 - source.random()) / math.log(1 - 1 / mean))
        trace.append(Request(now, None, 0, length))
    capacity = Capacity(max_num_seqs=seats, max_queue=100_000)
    served = simulate(trace, 1, capacity, timing((1, 0, step)), POLICIES["affinity"])
    waits = [it.ttft - step for it in served]
    offered = rate * mean * step
    waiting = erlang_c(seats, offered)
    assert sum(wait > 1e-9 for wait in waits) / len(waits) == pytest.approx(waiting, rel=0.1)
    expected = waiting / (seats / (mean * step) - rate)
    assert sum(waits) / len(waits) == pytest.approx(expected, rel=0.15)


def test_every_request_is_answered_once_or_refused() -> None:
    trace = drawn(NAMES, rate=40, seconds=30, zipf=1.0, lengths=SHORT)
    capacity = Capacity(max_num_seqs=2, max_loras=2, max_loaded=4, max_queue=8)
    served = simulate(trace, 2, capacity, timing((1, 1, 0.03), load=0.2), POLICIES["random"])
    assert [it.request for it in served] == trace
    assert 0 < sum(it.refused for it in served) < len(trace)
    for it in served:
        assert it.refused or it.request.at < it.first_token <= it.ended
    assert figures(served).requests == len(trace)


def test_adapters_are_warmer_by_affinity_than_at_random() -> None:
    trace = drawn(NAMES, rate=8, seconds=200, zipf=0.5, lengths=SHORT, tenant="one")
    capacity, times = Capacity(max_loaded=36), timing((1, 1, 0.01), load=0.5)
    warm = {
        name: figures(simulate(trace, 2, capacity, times, policy)).warm_rate
        for name, policy in POLICIES.items()
    }
    assert warm["affinity"] > 0.9 > 0.8 > max(warm["random"], warm["least-loaded"])


def test_a_place_is_given_back_and_the_least_recently_used_goes() -> None:
    trace = [Request(float(at), name, 1, 1) for at, name in enumerate("abacab")]
    served = simulate(
        trace, 1, Capacity(max_loaded=2), timing((1, 1, 0.01), load=0.1), POLICIES["affinity"]
    )
    assert [it.warm for it in served] == [False, False, True, False, True, False]


def test_a_larger_batch_takes_longer_for_a_token() -> None:
    measured = timing((1, 1, 0.02), (8, 1, 0.034), (8, 8, 0.048), (16, 1, 0.05))
    assert measured.step(8, 4) == pytest.approx(0.034 + 3 * 0.002, rel=0.02)
    falling = timing((1, 1, 0.02), (8, 1, 0.018))
    assert falling.step(8, 8) == pytest.approx(0.019)


def test_the_fewest_replicas_keep_the_goal_and_one_fewer_does_not() -> None:
    trace = drawn(NAMES, rate=30, seconds=20, zipf=1.0, lengths=SHORT)
    capacity, times = Capacity(max_num_seqs=2, max_loras=2), timing((1, 1, 0.05), load=0.1)
    policy = POLICIES["affinity"]
    found = fewest_replicas(trace, capacity, times, policy, goal=1.0, most=32)
    assert found is not None
    assert 1 < found < 32
    before = figures(simulate(trace, found - 1, capacity, times, policy))
    assert before.refused or before.ttft_p99 > 1.0
    assert fewest_replicas(trace, capacity, times, policy, goal=0.01, most=4) is None


def test_a_trace_is_read_as_it_was_written(tmp_path: Path) -> None:
    trace = drawn(NAMES, rate=5, seconds=10, zipf=1.0, lengths=SHORT)
    write_trace(tmp_path / "trace.jsonl", trace)
    assert read_trace(tmp_path / "trace.jsonl") == trace


def test_a_server_s_log_is_a_trace(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of its access lines, each at its arrival: it is written when the request has ended."""

    def answered(model: str, tokens: int, seconds: float, **fields: Any) -> None:
        told = {"endpoint": "chat", "tenant": "acme", "status": 200, "stream": True, **fields}
        finished = FinishedRequest(
            model=model, seconds=seconds, prompt_tokens=7, output_tokens=tokens, **told
        )
        state = {"finished": finished, "principal": SimpleNamespace(tenant="acme", key=None)}
        scope = {"state": state, "method": "POST", "path": "/v1/x"}
        access_log._log(scope, 200, seconds, None)

    with caplog.at_level("INFO", "serve"):
        logging.getLogger("serve.supervisor").warning("the engine is up again")
        answered("red@1", 5, 0.0)
        answered("tiny", 6, 1.0, endpoint="completions")
        answered("red@1", 0, 0.0, status=503)
        answered("tiny", 3, 0.0, endpoint="score")
    for record, at in zip(caplog.records, (1000, 1002, 1010, 1011, 1012), strict=True):
        record.created = at
    lines = [logs.JsonFormatter().format(record) + "\n" for record in caplog.records]
    (tmp_path / "server.log").write_text("".join(lines))
    assert read_trace(tmp_path / "server.log") == [
        Request(0.0, "red@1", 7, 5, "acme"),
        Request(7.0, None, 7, 6, "acme"),
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"logger": "serve", "endpoint": "chat"}', "time"),
        ('{"at": -1, "adapter": "a", "prompt_tokens": 1, "output_tokens": 1}', "at"),
        ('{"at": 1, "adapter": "a", "prompt_tokens": 1}', "output_tokens"),
        ('{"at": 1, "adapter": 3, "prompt_tokens": 1, "output_tokens": 1}', "adapter"),
        ("nonsense", "JSON"),
    ],
)
def test_a_line_that_is_no_request_is_told(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UsageError, match=rf"trace.jsonl:1: .*{words}"):
        read_trace(path)


def test_the_command_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    results, rows = tmp_path / "results.json", tmp_path / "rows.json"
    times = timing((1, 1, 0.02), load=0.3).measured
    results.write_text(json.dumps({"timing": times.model_dump(mode="json")}))
    main = command.typer.Typer()
    main.command()(command.run)
    options = ["--adapters", "10,100", "--seconds", "20", "--timing", str(results)]
    done = CliRunner().invoke(main, [*options, "--output", str(rows)])
    assert done.exit_code == 0, done.output
    assert done.output.count("affinity") == 2
    written = json.loads(rows.read_text())["rows"]
    assert [row["policy"] for row in written[:3]] == list(POLICIES)
    assert all(row["replicas"] >= 1 for row in written)
