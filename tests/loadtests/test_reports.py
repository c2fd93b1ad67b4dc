"""Figures, report, page and pictures of a run whose answers are known."""

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from loadtests.answer import Answer
from loadtests.reports.figures import FIGURES, figures
from loadtests.reports.page import write_page
from loadtests.reports.plots import pictures
from loadtests.reports.summary import finite, read_course, read_summary, summary, write_summary
from loadtests.shapes import Passed
from registry import LorikeetError, UsageError

HOSTILE = "</td><script>alert(1)</script>$x_"
STAGES = [Passed("before", 1, 0, 100.0, 110.0), Passed("beside noise", 1, 4, 110.0, 120.0)]


def answer(due: float, ttft: float, tokens: int, **fields: Any) -> Answer:
    """Tokens come 0.1 s apart."""
    arrivals = tuple(due + ttft + 0.1 * number for number in range(tokens))
    given = {"sent": due, "prompt_tokens": 10, "tenant": "quiet"} | fields
    return Answer(given.pop("model", "red"), due, arrivals, tokens, **given)


ANSWERS = [
    answer(100.0, 0.5, 11),
    answer(102.0, 1.0, 11, sent=102.4),
    answer(112.0, 2.0, 11, model=HOSTILE),
    answer(113.0, 3.0, 3, tenant="noisy", left=True),
    Answer("red", 114.0, error="HTTP 503", sent=114.0, tenant="noisy"),
    Answer("red", 115.0, error="not sent", tenant="noisy"),
]


def document(**more: Any) -> dict[str, Any]:
    about = {
        "scenario": "noisy",
        "date": "2026",
        "load": {"zipf": 1.0},
        "server": {},
        "machine": {},
    }
    return finite(summary(about | more, ANSWERS, STAGES))


def test_figures_are_those_of_the_answers() -> None:
    found = figures(ANSWERS, 100.0, 120.0)
    assert set(found) == set(FIGURES)
    assert found["requests"] == 6
    assert found["failures"] == 2
    assert found["failure_rate"] == pytest.approx(1 / 3)
    assert found["left"] == 1
    assert found["requests_per_second"] == 4 / 20
    assert found["output_tokens_per_second"] == 36 / 20
    assert found["prompt_tokens_per_second"] == 40 / 20
    assert found["ttft_p50"] == 1.5
    assert found["ttft_max"] == 3.0
    assert found["itl_p95"] == pytest.approx(0.1)
    assert found["request_max"] == pytest.approx(3.0)  # who left midway has no whole answer
    assert found["late_max"] == pytest.approx(0.4)


def test_nothing_gives_no_numbers_and_no_error() -> None:
    found = figures([], 1.0, 1.0)
    assert found["requests"] == 0
    assert all(math.isnan(value) for name, value in found.items() if name[:4] in ("ttft", "itl_"))


def test_stages_tenants_and_models_have_figures_of_their_own() -> None:
    report = document()
    assert report["total"]["requests"] == 6
    assert [stage["figures"]["requests"] for stage in report["stages"]] == [2, 4]
    assert report["stages"][1]["tenants"]["noisy"]["failures"] == 2
    assert report["tenants"]["quiet"]["requests"] == 3
    assert report["models"]["asked"] == 2
    assert report["models"]["figures"][HOSTILE]["requests"] == 1
    assert {(e["error"], e["count"]) for e in report["errors"]} == {
        ("HTTP 503", 1),
        ("not sent", 1),
    }
    assert report["ttft_curves"]["quiet"][0] == 0.5
    assert report["ttft_curves"]["quiet"][-1] == 2.0
    tokens = sum(t["output_tokens_per_second"] for t in report["times"]) * 20 / len(report["times"])
    assert tokens == pytest.approx(36)


def test_a_token_counts_in_the_stage_in_which_it_came() -> None:
    """Also of an answer that began in the stage before."""
    late = [answer(109.5, 0.1, 11)]
    stages = summary({}, late, STAGES)["stages"]
    rates = [stage["figures"]["output_tokens_per_second"] * 10 for stage in stages]
    assert rates == pytest.approx([4, 7])
    assert [stage["figures"]["requests"] for stage in stages] == [1, 0]


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_summary(document(), path)
    assert read_summary(path) == json.loads(json.dumps(document()))
    for text in ("{", "[]", '{"kind": "other"}', '{"kind": "lorikeet-load", "format": 99}'):
        path.write_text(text)
        with pytest.raises(UsageError):
            read_summary(path)


class Page(HTMLParser):
    """Its tags and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_says_it_all_and_runs_nothing(tmp_path: Path) -> None:
    report = document(
        verdicts=[
            {"promise": HOSTILE, "value": None, "goal": 1, "at_most": True, "kept": False},
            {"promise": "ttft_p95", "value": 0.5, "goal": 1, "at_most": True, "kept": True},
        ],
        skipped=["leases: no such metric"],
        samples=[{"seconds": 1.0, "server_mib": 100.0, "engine_mib": None}],
    )
    write_page(report, tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text())
    assert "script" not in page.tags
    assert page.tags.count("img") == 4
    for text in ("beside noise: noisy", HOSTILE, "HTTP 503", "not measured", "missed", "leases"):
        assert text in page.text


@pytest.mark.parametrize("answers", [[], [Answer("red", 101.0, error="HTTP 500")], ANSWERS[:1]])
def test_pictures_come_of_any_run(answers: list[Answer]) -> None:
    for png in pictures(finite(summary({}, answers, STAGES))).values():
        assert png[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_run_without_a_course_is_told(tmp_path: Path) -> None:
    with pytest.raises(LorikeetError, match="no stage"):
        summary({}, ANSWERS, [])
    with pytest.raises(LorikeetError, match="left no course"):
        read_course(tmp_path / "none.json")
