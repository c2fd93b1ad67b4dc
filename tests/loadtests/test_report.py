"""The page of benchmarks is what its results make of it."""

import json
from pathlib import Path

import pytest

from loadtests.report import PAGE, filled
from loadtests.reports.summary import finite, summary
from loadtests.results import Results
from loadtests.servers import OURS
from loadtests.throughput import BASE, Figures, Turn
from loadtests.training import TrainingRun
from registry import UsageError

from .test_reports import ANSWERS, STAGES

MACHINE = {"date": "2026-11-24T10:00:00+00:00", "processor": "a | b", "cores": 2, "python": "3.11"}


def place(file: str, table: str) -> str:
    return f"before\n\n<!-- {file}: {table} -->\nold\n<!-- end -->\n\nafter\n"


def test_the_page_is_made_of_its_results() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page, PAGE.with_suffix("")) == page
    assert page.count("<!-- end -->") >= 7


def test_the_page_of_scaling_is_made_of_its_results_too() -> None:
    page = PAGE.with_name("scaling.md").read_text(encoding="utf-8")
    assert filled(page, PAGE.with_suffix("")) == page
    assert page.count("<!-- end -->") == 3


def test_a_benchmarks_own_json_fills_every_table(tmp_path: Path) -> None:
    results = Results({"machine": MACHINE | {"versions": {"vllm": "0.32.0"}}})
    results.turns.append(Turn(OURS, BASE, Figures(10, 0, 80.0, 1.0, 2.0)))
    results.trainings.append(TrainingRun(OURS, 96, 300, 8000, 20.0, 30.0, 50.0, 900.0, 0.4, 3.0))
    results.write(tmp_path / "bench.json")
    made = {
        table: filled(place("bench.json", table), tmp_path)
        for table in ("about", "output", "promises", "training")
    }
    assert "2026-11-24, a | b, 2 cores; Python 3.11, vllm 0.32.0." in made["about"]
    assert "| Lorikeet | base | 80.0 | 1.00 | 1.00 s | 2.00 s |  |" in made["output"]
    assert "| promised | goal |" in made["promises"]
    assert "| Lorikeet | 15.0 | 400 | 4.80 | 20 s | 50 s | 900 MiB | 0.400 |" in made["training"]
    for text in made.values():
        assert text.startswith("before\n\n<!-- bench.json")
        assert text.endswith("<!-- end -->\n\nafter\n")
        assert "old" not in text


def test_a_run_of_load_is_a_table_too(tmp_path: Path) -> None:
    document = finite(summary({"machine": MACHINE}, ANSWERS, STAGES))
    (tmp_path / "load.json").write_text(json.dumps(document))
    made = filled(place("load.json", "load"), tmp_path)
    assert "| beside noise | 4 | 2 |" in made


@pytest.mark.parametrize(
    ("file", "table", "said"),
    [
        ("none.json", "output", "cannot read"),
        ("other.json", "output", "has not what the table"),
        ("other.json", "speed", "asks for the table 'speed'"),
    ],
)
def test_what_a_page_cannot_have_is_told(tmp_path: Path, file: str, table: str, said: str) -> None:
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UsageError, match=said):
        filled(place(file, table), tmp_path)
