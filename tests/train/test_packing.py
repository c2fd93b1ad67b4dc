"""Packed rows are as far apart as rows alone."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset

from train.answer_trainer import _dataset
from train.batches import Collator, answer_logits, answer_loss
from train.data.masking import IGNORED, Encoded
from train.errors import SettingsError
from train.packing import Pack, PackCollator, check_packing
from train.settings import TrainSettings


def _row(length: int, trained: int, start: int = 100) -> Encoded:
    ids = tuple(range(start, start + length))
    return Encoded(ids, (*[IGNORED] * (length - trained), *ids[length - trained :]))


ROWS = [_row(9, 3), _row(5, 2, 300), _row(7, 7, 500), _row(4, 1, 900)]


@pytest.fixture(scope="module")
def model(tiny_base: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)


def _gradients(model: Any, batches: list[dict[str, torch.Tensor]]) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    total = torch.zeros(())
    for batch in batches:
        total = total + answer_loss(*answer_logits(model, batch))
    total.backward()
    return total.item(), model.model.layers[0].self_attn.k_proj.weight.grad.clone()


def test_a_pack_gives_the_loss_and_gradients_of_each_row_alone(model: Any) -> None:
    alone = _gradients(model, [Collator(2).collate([row]) for row in ROWS])
    packed = PackCollator(2).collate([Pack(tuple(ROWS[:3])), Pack((ROWS[3],))])
    assert "attention_mask" not in packed
    assert packed["input_ids"].shape == (2, 21)
    assert packed["position_ids"][0].tolist() == [*range(9), *range(5), *range(7)]
    assert packed["seen_tokens"].tolist() == [21, 4]
    together = _gradients(model, [packed])
    assert together[0] == pytest.approx(alone[0], rel=1e-5)
    torch.testing.assert_close(together[1], alone[1], rtol=1e-4, atol=1e-6)
    # The test can fail: with positions that run on, the rows see each other.
    packed["position_ids"] = torch.arange(21).expand(2, -1)
    assert _gradients(model, [packed])[0] != pytest.approx(alone[0], rel=1e-3)


def test_the_first_token_of_a_row_is_not_trained_by_the_row_before() -> None:
    labels = PackCollator(2).collate([Pack((ROWS[0], ROWS[2]))])["labels"][0].tolist()
    assert labels[:9] == list(ROWS[0].labels)
    assert labels[9] == IGNORED
    assert labels[10:] == list(ROWS[2].labels[1:])


def test_the_data_set_holds_every_row_once_and_no_pack_is_too_long() -> None:
    settings = TrainSettings(packing=True, max_length=16)
    dataset = _dataset(ROWS, settings)
    assert max(dataset["length"]) <= 16
    assert len(dataset) == 2
    assert sorted(length for lengths in dataset["seq_lengths"] for length in lengths) == [
        4,
        5,
        7,
        9,
    ]
    assert isinstance(dataset, Dataset)
    batch = PackCollator(2)([dataset[0], dataset[1]])
    trained = sum(row.trained_tokens for row in ROWS)
    assert int((batch["labels"] != IGNORED).sum()) == trained - 1  # one begins with a trained token
    assert int(batch["seen_tokens"].sum()) == sum(len(row.input_ids) for row in ROWS)


def test_a_model_in_which_rows_see_each_other_is_refused(model: Any) -> None:
    check_packing(model, "float32")

    class Leaky:
        """Every token sees all before it, whatever its position says."""

        device, training = torch.device("cpu"), False

        def eval(self) -> None: ...

        def train(self, mode: bool) -> None: ...

        def __call__(self, input_ids: torch.Tensor, **_: Any) -> Any:
            return SimpleNamespace(logits=input_ids.cumsum(-1).unsqueeze(-1).float())

    with pytest.raises(SettingsError, match="packing: rows of one sequence would see each other"):
        check_packing(Leaky(), "float32")
