"""The scores of the trained tokens are those of a plain forward pass over one row."""

from pathlib import Path
from typing import Any

import pytest

from registry import Base
from train.base_model import load_base, load_tokenizer, stop_ids
from train.data.masking import IGNORED, ChatEncoder, Encoded, encode_chats
from train.data.parts import read_part
from train.evaluation.generation import mean_loss as held_out_loss
from train.handoff.token_scores import mean_loss, token_scores
from train.hardware import detect
from train.settings import TrainSettings


@pytest.fixture
def model(base: Base) -> Any:
    settings = TrainSettings(quantization="none")
    return load_base(base, settings, detect(settings))


def test_scores_in_batches_are_those_of_each_row_alone(
    model: Any, base: Base, held_out: Path
) -> None:
    import torch

    encoder = ChatEncoder(load_tokenizer(base), base.id, stop_ids(base))
    chats = read_part(held_out, TrainSettings()).chats
    encoded = encode_chats(encoder, chats, held_out, max_length=1000, drop_long=False)
    rows = [sequence for row in encoded for sequence in row.sequences]
    rows.append(Encoded((1, 2, 3, 4), (IGNORED, 2, IGNORED, 4)))  # two turns
    rows.append(Encoded((1, 2), (IGNORED, IGNORED)))  # nothing is trained
    done: list[int] = []
    found = token_scores(model, rows, pad_id=2, batch_size=3, on_rows=done.append)
    assert sum(done) == len(rows)
    assert found[-1].logprobs == ()
    for row, score in zip(rows, found, strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([row.input_ids])).logits[0]
        logprobs = torch.log_softmax(logits.double(), dim=-1)
        places = [at for at, label in enumerate(row.labels) if label != IGNORED]
        want = [float(logprobs[at - 1, row.input_ids[at]]) for at in places]
        assert score.logprobs == pytest.approx(want, abs=1e-4)
        assert score.top == tuple(int(logits[at - 1].argmax()) for at in places)
    plain = held_out_loss(model, rows[:-1], pad_id=2, batch_size=2)
    assert mean_loss(found) == pytest.approx(plain, abs=1e-5)
