"""What is promised of the trainer, and the child processes that measure it."""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from loadtests.process import peak_mib
from loadtests.score_adapters import answer_ids, mean_loss
from loadtests.training import (
    OURS,
    PLAIN,
    PLAIN_FLOAT32,
    ROWS,
    TrainingRun,
    label,
    lorikeet_command,
    table,
    verdicts,
    watch,
)
from registry import LorikeetError
from train.settings_file import load_settings


def run_of(trainer: str, seconds: float, loss: float = 0.5, peak: float = 1000.0) -> TrainingRun:
    return TrainingRun(
        trainer=trainer,
        rows=100,
        answer_tokens=300,
        tokens=8000,
        seconds=seconds,
        process_seconds=seconds + 10,
        cpu_seconds=2 * seconds,
        peak_mib=peak,
        held_out_loss=loss,
        base_loss=3.0,
    )


def test_speed_is_told_in_tokens_seen_a_second_of_training() -> None:
    run = run_of(OURS, seconds=20)
    assert run.answer_tokens_per_second == 15
    assert run.tokens_per_second == 400
    assert run.rows_per_second == 5
    assert math.isnan(run_of(OURS, seconds=0).rows_per_second)


def test_three_promises_against_the_plain_script_and_its_float32_variant() -> None:
    runs = [run_of(PLAIN, 60), run_of(PLAIN_FLOAT32, 40, 0.4), run_of(OURS, 20, 0.5, 900)]
    speed, loss, memory, *float32 = verdicts(runs)
    assert (speed.value, speed.goal, speed.kept) == (pytest.approx(3), 1.5, True)
    assert (loss.value, loss.kept) == (1, True)
    assert (memory.value, memory.kept) == (0.9, True)
    assert [verdict.value for verdict in float32] == pytest.approx([2, 1.25, 0.9])
    assert [verdict.kept for verdict in float32] == [True, False, True]
    assert table(runs).row_count == 3

    slow, worse, larger = verdicts([run_of(PLAIN, 60), run_of(OURS, 41, 0.51, 1001)])
    assert (slow.kept, worse.kept, larger.kept) == (False, False, False)
    assert verdicts([run_of(OURS, 20)]) == []


def test_a_child_is_watched_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    code = (
        "import os, time; held = bytearray(120 << 20); held = None; time.sleep(0.5); "
        "print(os.environ.get('OMP_WAIT_POLICY'), os.environ['GIVEN'])"
    )
    child = watch([sys.executable, "-c", code], tmp_path / "log", {"GIVEN": "this"})
    assert child.output == "None this\n"
    assert child.seconds > 0.5
    assert 0 < child.cpu_seconds < child.seconds
    assert 120 < child.peak_mib < 1000
    assert peak_mib(os.getpid()) >= psutil.Process().memory_info().rss / 1024**2 * 0.9
    assert peak_mib(2**22 + 1) == 0


def test_a_child_that_fails_is_named_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no room')"]
    with pytest.raises(LorikeetError, match=r"exit code 1: no room") as caught:
        watch(command, tmp_path / "log")
    assert caught.value.remedy == f"read {tmp_path}/log"


def test_our_command_holds_nothing_out_and_its_settings_are_known() -> None:
    command = lorikeet_command(Path("base"), Path("rows"), 2)
    overrides = [command[i + 1] for i, part in enumerate(command) if part == "--set"]
    settings = load_settings(None, overrides)
    assert (settings.epochs, settings.batch_size, settings.rank) == (2, 16, 16)
    assert settings.eval_fraction == 0
    assert label("plain, float32 adapter") == "plain-float32-adapter"


def test_the_tokens_of_an_answer_end_with_the_stop_token(tiny_base: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    row = json.loads((ROWS / "train.jsonl").read_text().splitlines()[0])
    prompt, answer = answer_ids(tokenizer, row)
    assert tokenizer.decode(answer) == f"{row['messages'][-1]['content']}<|im_end|>"
    assert tokenizer.decode(prompt).endswith("<|im_start|>assistant\n")


def test_the_loss_is_that_of_the_answers_alone(tiny_base: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(tiny_base).eval()
    rows = [([5, 6, 7, 8], [9, 10]), ([5, 6], [11, 12, 13, 14])]
    total = 0.0
    for prompt, answer in rows:
        ids = torch.tensor([prompt + answer])
        labels = torch.tensor([[-100] * len(prompt) + answer])
        with torch.no_grad():
            total += float(model(input_ids=ids, labels=labels).loss) * len(answer)
    assert mean_loss(model, rows) == pytest.approx(total / 6, rel=1e-5)
