"""The report: what it says of each kind of run, and that the text of rows cannot act in it."""

import base64
import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from train.data.chat import Chat, Message
from train.evaluation.comparison import compare
from train.evaluation.scores import Answers, RowLoss
from train.runs.plot import write_loss_plot
from train.runs.report import write_report
from train.settings import TrainSettings

RUN = "colours-20261124-150103"
RECORD = {
    "id": RUN,
    "name": "colours",
    "base": "/models/my base",
    "base_digest": "sha256:0123",
    "data": "/data/rows.jsonl",
    "eval_data": None,
    "publish": True,
    "status": "succeeded",
    "error": None,
    "started_at": "2026-11-24T15:01:03Z",
    "finished_at": "2026-11-24T16:02:05Z",
    "version": "colours@2",
    "resumed": 1,
}
HOSTILE = "</td><script>alert('row')</script><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """A page's text, its tags, and the cells of its tables."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.cells: list[str] = []
        self._in_cell = False
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        self.text = "\n".join(self.texts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.cells.append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self._in_cell:
            self.cells[-1] += data

    def after(self, cell: str) -> str:
        """The cell that follows the first one with this text."""
        return self.cells[self.cells.index(cell) + 1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / RUN
    path.mkdir()
    return path


def write(folder: Path, **files: Any) -> None:
    """`record=…` writes run.json; `x=…` writes x.json."""
    for name, value in files.items():
        file = "run" if name == "record" else name
        (folder / f"{file}.json").write_text(json.dumps(value))


def write_lines(path: Path, *lines: object) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def metrics_line(step: int, loss: float) -> dict[str, Any]:
    return {
        "step": step,
        "epoch": step / 2,
        "loss": loss,
        "grad_norm": 2.5,
        "learning_rate": 1e-3,
        "tokens": 1000 * step,
        "trained_tokens": 50 * step,
        "seconds": 4.0 * step,
    }


def test_the_report_of_a_run_that_succeeded(folder: Path) -> None:
    chats = [Chat(n, (Message("user", "?"), Message("assistant", "blue"))) for n in range(10)]
    losses = [RowLoss(0.5, 2)] * 10
    right = Answers(["blue"] * 9 + ["green"], prompt_tokens=31.0, seconds=0.125, losses=losses)
    wrong = Answers(["?"] * 10, prompt_tokens=31.0, seconds=0.125)
    answers = compare(chats, right, wrong, wrong, few_shot_examples=5).as_dict()
    write(
        folder,
        record=RECORD,
        evaluation=answers,
        data={"data": {"path": "/data/rows.jsonl", "rows": 90}, "coverage": {"too_long": 3}},
        environment={"python": "3.11.7", "libraries": {"torch": "2.13.0"}},
    )
    settings = {**TrainSettings().model_dump(mode="json"), "rank": 8}
    (folder / "settings.yaml").write_text(json.dumps(settings))
    lines = [metrics_line(n, 3.0 / n) for n in range(1, 5)]
    write_lines(folder / "metrics.jsonl", *lines, {"step": 4, "held_out_loss": 0.25})
    write_loss_plot(folder / "metrics.jsonl", folder / "loss.png")

    assert write_report(folder) == folder / "report.html"
    page = Page(folder / "report.html")
    assert page.after("took") == "1:01:02"
    assert page.after("resumed") == "once"
    assert page.after("optimiser steps") == "4"
    assert page.after("trained tokens a second") == "12.5"
    assert page.after("tokens a second") == "250.0"
    assert page.after("loss, first and last") == "3.0000 → 0.7500"
    assert page.after("held-out loss, lowest") == "0.2500 at step 4"
    assert page.after("base") == "/models/my base"
    assert page.after("serve it") == "lorikeet serve --base '/models/my base'"
    assert page.after("make it the one served") == "lorikeet adapters promote colours 2"
    assert page.after("data: rows") == "90"
    assert page.after("coverage: too long") == "3"
    assert page.after("libraries: torch") == "2.13.0"
    assert "9/10" in page.cells
    assert any(cell.startswith("90.0% (59.6% to 98.2%)") for cell in page.cells)
    assert page.after("adapter over base").startswith("+0.900 (+0.")
    assert page.after("adapter over base, 5 examples in the prompt").startswith("+0.900 (+0.")
    assert "0.250 (0.250 to 0.250)" in page.cells
    assert "none of them" in page.cells
    changed = [attributes for tag, attributes in page.tags if attributes.get("class") == "changed"]
    assert len(changed) == 1
    assert page.after("rank") == "8"
    [image] = [attributes for tag, attributes in page.tags if tag == "img"]
    kind, _, data = str(image["src"]).partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data) == (folder / "loss.png").read_bytes()


def test_a_report_loads_nothing_and_runs_nothing_whatever_the_rows_say(folder: Path) -> None:
    row = {
        "messages": [
            {"role": "user", "content": HOSTILE},
            {"role": "assistant", "content": HOSTILE},
        ]
    }
    write_lines(folder / "held-out.jsonl", row)
    write(
        folder,
        record={**RECORD, "name": HOSTILE, "error": HOSTILE, "status": '"><script>'},
        data={HOSTILE: HOSTILE},
        evaluation={"task": HOSTILE, "adapter": {"confusion": {"labels": [HOSTILE], "counts": []}}},
        environment={"python": "{{ 7 * 7 }}"},
    )
    (folder / "settings.yaml").write_text(json.dumps({HOSTILE: HOSTILE}))
    page = Page(write_report(folder))
    assert page.text.count("<script>alert('row')</script>") >= 6
    assert "{{ 7 * 7 }}" in page.cells
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img", "link", "iframe", "a"}
    names = {name for _, attributes in page.tags for name in attributes}
    assert not names & {"src", "href", "onerror"}
    [policy] = [a["content"] for _, a in page.tags if a.get("http-equiv")]
    assert str(policy).startswith("default-src 'none';")


@pytest.mark.parametrize("status", ["failed", "stopped", "running"])
def test_a_run_that_did_not_succeed_says_why_and_how_to_go_on(folder: Path, status: str) -> None:
    error = "the loss of step 3 is not finite" if status == "failed" else None
    ended = {**RECORD, "status": status, "error": error, "version": None, "finished_at": None}
    write(folder, record=ended)
    (folder / "settings.yaml").write_text("rank: 8\n")
    write_lines(folder / "metrics.jsonl", metrics_line(1, 3.0), metrics_line(2, math.nan))
    page = Page(write_report(folder))
    assert page.after("go on with it") == f"lorikeet train --resume {RUN}"
    assert page.after("train anew").startswith(f"lorikeet train --config {folder}/settings.yaml")
    assert "serve it" not in page.cells
    assert page.after("steps whose loss is not finite") == "2"
    assert page.after("loss, lowest") == "3.0000 at step 1"
    assert ("the loss of step 3" in page.text) == (status == "failed")


def test_an_adapter_that_was_not_published_can_be(folder: Path) -> None:
    write(folder, record={**RECORD, "version": None, "publish": False})
    (folder / "settings.yaml").write_text("alpha: null\n")
    page = Page(write_report(folder))
    assert page.after("train anew").endswith(" --name colours --no-publish")
    assert page.after("alpha") == "–"
    command = f"lorikeet adapters import {folder}/adapter --name colours --base '/models/my base'"
    assert page.after("publish it") == command


def test_an_empty_folder_has_a_report_and_a_damaged_file_is_named(folder: Path) -> None:
    assert RUN in Page(write_report(folder)).text
    for name in ("run.json", "data.json", "evaluation.json", "held-out.jsonl"):
        (folder / name).write_text('{"a": ')
    (folder / "settings.yaml").write_text("a: [1")
    (folder / "metrics.jsonl").write_bytes(b"\xff\xfe")
    page = Page(write_report(folder))
    for name in (
        *("run.json", "data.json", "evaluation.json"),
        *("held-out.jsonl", "settings.yaml", "metrics.jsonl"),
    ):
        assert f"{name} cannot be read" in page.text


def test_questions_are_shown_with_the_answers_given_and_cut_where_they_are_long(
    folder: Path,
) -> None:
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "x" * 5000}]
    answer = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    write_lines(folder / "held-out.jsonl", {"messages": [*turns, answer]})
    page = Page(write_report(folder))
    [question] = [cell for cell in page.cells if cell.startswith("system: be brief")]
    assert question.endswith("… (5,023 characters)")
    assert len(question) < 1100
    assert '"tool_calls"' in page.after(question)
    samples = [{"question": "Which?", "expected": "blue", "few_shot": "green"}]
    write(folder, evaluation={"samples": samples})
    page = Page(write_report(folder))
    assert page.cells == ["question", "expected", "few shot", "Which?", "blue", "green"]
