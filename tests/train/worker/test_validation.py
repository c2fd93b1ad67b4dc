"""The check of a job's files: what is wrong is told by line, never with a path of the server."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from child_processes import Endless, Here, Scripted
from worker_world import ROWS, World

from registry.finetuning.objects import Job
from train.base_model import load_tokenizer
from train.worker.order import JobFolder

_TOKENIZER = cache(load_tokenizer)


def said(text: object, answer: str = "blue") -> dict[str, Any]:
    """A row."""
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return {"messages": turns}


@pytest.fixture
def only_checks(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Nothing is trained, and the tokenizer is loaded once."""
    monkeypatch.setattr("train.data.check.load_tokenizer", _TOKENIZER)
    monkeypatch.setattr("train.worker.worker.Worker._train", lambda *_: False)
    return world


def error_of(world: World, *args: Any, **request: Any) -> dict[str, Any]:
    """The error of a job whose files are checked."""
    return checked(world, world.job(*args, **request))


def checked(world: World, job: Job) -> dict[str, Any]:
    """The error of the job, now that its files are checked."""
    world.work(Here())
    error = world.now(job).error
    assert world.now(job).status == "failed"
    assert error is not None
    assert str(world.registry.settings.home) not in error["message"]
    assert str(world.base.path) not in error["message"]
    assert error["message"] in " ".join(world.messages(job))
    return error


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            b'{"messages": [}\n[1]\n\xff\xfe\n\n'
            b'{"messages": [{"role": "user", "content": "And then?"}]}\n{"text": 3}\n',
            [
                "rows.jsonl: 5 rows cannot be used: line 1: not JSON",
                "line 2: an array; expected one JSON object a line",
                "line 3: byte 1 is not UTF-8",
                "line 5: ",
                "line 6: ",
            ],
        ),
        (b"\n\n", ["rows.jsonl has no rows"]),
        ([*ROWS, said("word " * 2000)], ["line 25 is longer than 1024 tokens", "max_length"]),
        ([{"messages": []}] * 12, ["12 rows cannot be used", "; and 2 more"]),
    ],
)
def test_bad_rows_are_named_by_their_lines(
    only_checks: World, rows: Any, expected: list[str]
) -> None:
    error = error_of(only_checks, rows)
    assert (error["code"], error["param"]) == ("invalid_training_file", "training_file")
    for part in expected:
        assert part in error["message"]


def test_the_validation_file_is_named_where_it_is_the_one(only_checks: World) -> None:
    bad = [said("Which?"), {"messages": [{"role": "user", "content": "And?"}]}]
    error = error_of(only_checks, held_out=bad)
    assert (error["code"], error["param"]) == ("invalid_validation_file", "validation_file")
    assert error["message"].startswith("held-out.jsonl: 1 row cannot be used: line 2")
    error = error_of(only_checks, held_out=ROWS[:2])
    assert error["param"] == "validation_file"
    assert "every held-out row is among the training rows" in error["message"]


@pytest.mark.parametrize(
    ("options", "param", "message"),
    [
        ({"targets": ["q_proj", "query"]}, "lorikeet.targets", "no layer query; it has down_proj"),
        (
            {"early_stopping": 1, "eval_fraction": 0.0},
            "lorikeet.early_stopping",
            "early_stopping needs held-out rows",
        ),
    ],
)
def test_options_that_cannot_be_trained_with(
    only_checks: World, options: dict[str, Any], param: str, message: str
) -> None:
    error = error_of(only_checks, lorikeet=options)
    assert (error["code"], error["param"]) == ("invalid_hyperparameters", param)
    assert message in error["message"]


def test_good_files_put_the_job_into_the_queue_with_numbers_for_auto(only_checks: World) -> None:
    world = only_checks
    job = world.job(ROWS[:5], hyperparameters={"n_epochs": 2}, lorikeet={"eval_fraction": 0.2})
    world.work(Here())
    now = world.now(job)
    assert (now.status, now.error, now.worker) == ("queued", None, None)
    assert now.hyperparameters == {
        "n_epochs": 2,
        "batch_size": 4,
        "learning_rate_multiplier": 1.0,
    }
    assert any("4 rows to train on" in text for text in world.messages(job))
    rows = JobFolder(world.registry.settings, job.id).rows()
    assert 10 < rows["longest"] < 100
    assert 1 <= rows["trained"] < rows["longest"]


def test_held_out_rows_that_are_trained_on_are_told(only_checks: World) -> None:
    job = only_checks.job(ROWS[:5], held_out=[*ROWS[:2], said("Something new?")])
    only_checks.work(Here())
    assert any(
        text.endswith(
            "1 rows held out; 2 more rows of the validation file are trained on too: not evaluated"
        )
        for text in only_checks.messages(job)
    )


def test_another_base_in_the_same_place_and_a_damaged_file_are_told(only_checks: World) -> None:
    changed = replace(only_checks, base=replace(only_checks.base, digest=f"sha256:{'0' * 64}"))
    error = error_of(changed)
    assert (error["code"], error["param"]) == ("base_changed", "model")
    job = only_checks.job(ROWS[:4])
    files = only_checks.registry.files
    blob = files.path(files.get(None, job.training_file))
    blob.chmod(0o644)
    blob.write_text(json.dumps(ROWS[0]) + "\n")
    error = checked(only_checks, job)
    assert error["code"] == "internal_error"
    assert "rows.jsonl is damaged" in error["message"]


def test_files_that_take_too_long_are_the_jobs_fault(only_checks: World) -> None:
    job = only_checks.job()
    child = Endless()
    only_checks.work(child, validate_seconds=0.2)
    error = only_checks.now(job).error
    assert error is not None
    assert (error["code"], error["param"]) == ("invalid_training_file", "training_file")
    assert "took longer than 0.2 seconds" in error["message"]
    assert child.signals == ["stop"]


def test_a_child_is_the_first_to_go_where_memory_runs_out() -> None:
    code = "from train.worker.lifeline import die_first; die_first()"
    told = f"{code}; print(open('/proc/self/oom_score_adj').read())"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1000"


def test_an_error_of_the_servers_own_is_told_without_its_words(only_checks: World) -> None:
    job = only_checks.job()
    only_checks.work(Scripted(lambda _: 1))
    error = only_checks.now(job).error
    assert error is not None
    assert error["code"] == "internal_error"
    assert "the log of the job" in error["message"]
