"""What metrics.jsonl says, as events and as the metrics file."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from train.worker.finish import evaluation_told, metrics_csv
from train.worker.progress_events import Tail, figures


def step(number: int, loss: float = 0.5, **more: Any) -> dict[str, Any]:
    return {
        "step": number,
        "total_steps": 4,
        "epoch": number / 2,
        "loss": loss,
        "mean_token_accuracy": 0.75,
        "learning_rate": 1e-4,
        "tokens": 100 * number,
        "trained_tokens": 10 * number,
        "seconds": 2.0 * number,
        **more,
    }


HELD_OUT = {"step": 2, "held_out_loss": 0.61, "held_out_token_accuracy": 0.5}


def write(path: Path, *lines: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_each_step_is_told_by_openais_names() -> None:
    first, second = figures([step(1), step(2, 0.25), HELD_OUT])
    assert first.message == "Step 1/4: training loss=0.50"
    assert first.metrics() == {
        "step": 1,
        "train_loss": 0.5,
        "train_mean_token_accuracy": 0.75,
    }
    assert second.message == "Step 2/4: training loss=0.25, validation loss=0.61"
    assert second.metrics() == {
        "step": 2,
        "train_loss": 0.25,
        "train_mean_token_accuracy": 0.75,
        "valid_loss": 0.61,
        "valid_mean_token_accuracy": 0.5,
        "full_valid_loss": 0.61,
        "full_valid_mean_token_accuracy": 0.5,
    }
    data = second.data()
    assert (data["total_steps"], data["tokens"], data["tokens_per_second"]) == (4, 200, 50.0)
    now = datetime.now(UTC)
    assert second.finish(now) == now + timedelta(seconds=4)


def test_a_step_that_is_measured_is_told_when_the_measurement_is_there(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert tail.new() == []
    waiting = step(2, held_out_follows=True)
    write(path, step(1), waiting)
    [first] = tail.new()
    tail.told(first.step)
    assert tail.new() == []
    write(path, step(1), waiting, HELD_OUT)
    [second] = tail.new()
    assert second.held_out == HELD_OUT
    tail.told(second.step)
    assert tail.new() == []
    write(path, step(1), waiting, HELD_OUT, step(3), step(4, held_out_follows=True))
    assert [found.step for found in tail.new()] == [3]
    assert [found.step for found in tail.new(ended=True)] == [3, 4]


def test_what_comes_again_after_a_kill_is_not_told_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, step(1), step(2), step(3))
    tail = Tail(path, told=2)
    assert [found.step for found in tail.new()] == [3]
    tail.told(3)
    write(path, step(1))  # cut at the last checkpoint
    assert tail.new() == []
    write(path, step(1), step(2), step(3), step(4))
    assert [found.step for found in tail.new()] == [4]


def test_the_metrics_file_has_openais_columns() -> None:
    text = metrics_csv(figures([step(1), step(2), HELD_OUT]))
    assert text.splitlines() == [
        "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy",
        "1,0.5,0.75,,",
        "2,0.5,0.75,0.61,0.5",
    ]


def test_the_evaluation_is_told_in_a_sentence() -> None:
    evaluation = {
        "adapter": {"rows": 12, "accuracy": 0.875, "loss": 0.1},
        "base": {"accuracy": 0.25, "loss": 2.0},
        "few_shot": {"accuracy": 0.5, "loss": None},
        "comparison": {"metric": "accuracy"},
    }
    assert evaluation_told(evaluation) == (
        "Evaluation on 12 held-out rows: accuracy 87.5% (base 25.0%, few-shot 50.0%), "
        "loss 0.100 (base 2.000)"
    )
    alone = {"adapter": {"rows": 2, "token_f1": 0.5}, "comparison": {"metric": "token_f1"}}
    assert evaluation_told(alone) == "Evaluation on 2 held-out rows: token f1 50.0%"
