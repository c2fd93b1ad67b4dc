"""Errors of a child as a job's error: what its owner can act on, and nothing of the server's."""

from pathlib import Path

import pytest

from registry import DiskFull, UnknownBase, UsageError
from train.errors import (
    BaseNotTrainable,
    DataError,
    Interrupted,
    LossNotFinite,
    NameBusy,
    OutOfMemory,
    RowProblem,
    RunChanged,
    SettingsError,
    TrainingFailed,
)
from train.progress import SilentReporter, Step
from train.worker.child import Stop
from train.worker.failures import failure
from train.worker.order import Order, Source

ORDER = Order(
    work="train",
    job="ftjob-1",
    adapter="ft.acme.x",
    base="tiny",
    base_place="/srv/bases/tiny",
    base_digest="sha256:0",
    training=Source("/srv/home/files/ab/abc.jsonl", "abc", "mine.jsonl"),
    validation=Source("/srv/home/files/cd/cde.jsonl", "cde", "held-out.jsonl"),
    settings={},
    hyperparameters={},
)
BAD_ROW = RowProblem(3, "no answer", "a turn of the assistant")


@pytest.mark.parametrize(
    ("error", "code", "param", "words"),
    [
        (LossNotFinite(7), "training_diverged", "learning_rate_multiplier", "at step 7"),
        (OutOfMemory("no memory left while training"), "out_of_memory", None, "no memory left"),
        (MemoryError(), "out_of_memory", None, "No memory"),
        (DiskFull("/srv/home is full", needed=1), "disk_full", None, "disk is full"),
        (SettingsError(["rank: too high"]), "invalid_hyperparameters", "lorikeet", "too high"),
        (UsageError("that cannot be"), "invalid_hyperparameters", None, "that cannot be"),
        (
            DataError.of_rows(Path(ORDER.training.path), [BAD_ROW]),
            "invalid_training_file",
            "training_file",
            "mine.jsonl, line 3: no answer",
        ),
        (
            DataError("/srv/home/files/cd/cde.jsonl has no rows"),
            "invalid_validation_file",
            "validation_file",
            "held-out.jsonl has no rows",
        ),
        (UnknownBase("/srv/bases/tiny is gone"), "base_changed", "model", "no longer"),
        (RunChanged("the base has changed"), "base_changed", "model", "no longer"),
        (BaseNotTrainable("tiny has no layers"), "base_not_trainable", "model", "no layers"),
        (NameBusy("run x"), "busy", None, "run x"),
        (TrainingFailed("CUDA: /srv/x.py broke"), "internal_error", None, "log of the job"),
        (RuntimeError("/srv/x.py broke"), "internal_error", None, "log of the job"),
    ],
)
def test_each_error_has_a_code_and_words_without_a_path(
    error: BaseException, code: str, param: str | None, words: str
) -> None:
    outcome = failure(error, ORDER)
    assert (outcome.status, outcome.code, outcome.param) == ("failed", code, param)
    assert words in outcome.message
    assert "/srv" not in outcome.message


@pytest.mark.parametrize("error", [Interrupted("stopped"), KeyboardInterrupt()])
def test_a_child_that_was_stopped_has_not_failed(error: BaseException) -> None:
    assert failure(error, ORDER).status == "stopped"


def test_a_signal_ends_a_step_first_and_all_else_at_once() -> None:
    stop = Stop()
    reporter = stop.listening(SilentReporter())
    reporter.note("loading")
    reporter.step(Step(1, 9, 1.0, 10, 1.0))
    stop.on_signal()
    assert stop.asked
    reporter.step(Step(2, 9, 1.0, 20, 2.0))
    with pytest.raises(KeyboardInterrupt):
        reporter.answered("the adapter", 1, 2)
    with pytest.raises(KeyboardInterrupt):
        Stop().on_signal()
