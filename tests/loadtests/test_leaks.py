"""Leaks are found where there are some, and nothing is found where there are none."""

import math
import os
from pathlib import Path

import pytest

from loadtests.answer import Answer
from loadtests.leaks import LEASES, SLOTS, Findings, Gauges, Sample, Watch, growth, is_error, sample

from .conftest import FakeServer


def taken(mib: float = 100.0, descriptors: int = 20, engine: tuple[int, ...] = (7,)) -> Sample:
    return Sample(0.0, mib, 2 * mib, descriptors, descriptors, engine)


def missed(findings: Findings) -> list[str]:
    return [verdict.promise for verdict in findings.verdicts if not verdict.kept]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([50.0] * 8 + [100.0] * 16, 0.0),
        ([100.0] * 8 + [100.0, 100, 101, 102, 103, 104, 105, 105], 0.05),
        ([100.0 + number for number in range(16)], 6 / 108.5),
        ([100.0] * 12 + [500.0] + [100.0] * 3, 0.0),  # a peak between is none
    ],
)
def test_growth_is_that_of_the_second_half(values: list[float], expected: float) -> None:
    assert growth(values) == pytest.approx(expected, abs=0.001)


def test_too_few_samples_are_no_proof() -> None:
    assert math.isnan(growth([1.0] * 7))
    findings = Findings()
    findings.judge_processes([taken()], taken(), taken())
    assert missed(findings) == [
        "memory of the server, growth in the second half",
        "memory of the engine, growth in the second half",
    ]


def test_memory_descriptors_and_the_engines_end_are_told() -> None:
    flat = Findings()
    flat.judge_processes([taken()] * 20, taken(), taken(descriptors=22))
    assert missed(flat) == []
    assert len(flat.verdicts) == 5

    leaky = Findings()
    samples = [taken(100.0 + number) for number in range(20)]
    leaky.judge_processes(samples, taken(), taken(descriptors=200, engine=(8,)))
    assert len(missed(leaky)) == 5

    alone = [Sample(0.0, 100.0, 0.0, 20, 0, ())] * 20
    echo = Findings()
    echo.judge_processes(alone, alone[0], alone[0])
    assert missed(echo) == []
    assert echo.skipped == ["memory of the engine: it has no process of its own"]


def test_failures_and_a_load_without_answers() -> None:
    good, bad = Answer("a", 0.0, (1.0,), 1), Answer("a", 0.0, error="HTTP 500")
    for answers, count in (([good], 0), ([good, bad], 1), ([], 1)):
        findings = Findings()
        findings.judge_answers(answers)
        assert len(missed(findings)) == count


def test_leases_and_slots_are_read_and_what_a_server_lacks_is_named(
    fake_server: FakeServer,
) -> None:
    gauges = Gauges(fake_server.url)
    findings = Findings()
    findings.judge_gauges(gauges)
    assert findings.verdicts == []
    assert len(findings.skipped) == 2

    fake_server.metrics = (
        "# TYPE lorikeet_leases gauge\nlorikeet_leases 0.0\n"
        "# TYPE lorikeet_slots gauge\n"
        'lorikeet_slots{state="used"} 2.0\nlorikeet_slots{state="total"} 4.0\n'
    )
    assert gauges.read(LEASES) == 0
    assert gauges.read(SLOTS) == 2
    findings = Findings()
    findings.judge_gauges(gauges)
    assert fake_server.unloaded == ["red@1"]
    assert missed(findings) == []
    assert [verdict.value for verdict in findings.verdicts] == [0, 0]


def test_a_slot_that_stays_used_is_a_leak(
    fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadtests.leaks.REST_SECONDS", 0)
    fake_server.metrics = 'lorikeet_leases 3.0\nlorikeet_slots{state="used"} 2.0\n'
    fake_server.unload_frees = False
    findings = Findings()
    findings.judge_gauges(Gauges(fake_server.url))
    assert missed(findings) == ["leases at rest", "slots in use once all adapters were unloaded"]


def test_errors_in_a_log_are_found_in_every_format(tmp_path: Path) -> None:
    for line in (
        "ERROR:    Exception in ASGI application",
        "Traceback (most recent call last):",
        "(EngineCore pid=7) ERROR 11-24 19:00:00 [core.py:1] engine died",
        '{"time": "2026-11-24T19:00:00Z", "level": "error", "message": "x"}',
        "2026-11-24 19:00:00 ERROR    serve: no",
    ):
        assert is_error(line), line
    for line in ("INFO: 200 OK", '{"level": "info", "message": "no ERROR at all"}', ""):
        assert not is_error(line), line
    log = tmp_path / "server.log"
    log.write_bytes(b"INFO: fine\nCRITICAL: not\n\xff\n")
    findings = Findings()
    findings.judge_log(log)
    assert missed(findings) == ["errors in the server's log"]


def test_a_process_is_watched() -> None:
    before = sample(os.getpid(), 0)
    with Watch(os.getpid(), interval=0.01) as watch, Path(__file__).open() as _:
        while len(watch.samples) < 3:
            pass
    assert before.server_mib > 1
    assert watch.samples[-1].server_descriptors > before.server_descriptors
