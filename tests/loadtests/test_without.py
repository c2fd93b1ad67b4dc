"""A trainer without one of its savings trains the same adapter, only slower."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from loadtests import without
from loadtests.training_profile import VARIANTS, Timed, table
from registry import RegistrySettings, UsageError, resolve_base
from train import answer_trainer, batches, trainer
from train.base_model import load_base
from train.data.masking import Encoded
from train.hardware import detect
from train.settings import TrainSettings
from train.settings_file import load_settings

SETTINGS = TrainSettings(
    epochs=1, batch_size=4, learning_rate=5e-3, rank=4, quantization="none", threads=1
)
BEGIN = tuple(range(100, 120))


@contextmanager
def switched_off(*names: str) -> Iterator[None]:
    """These savings, and no others, are off meanwhile."""
    places: list[tuple[Any, str]] = [
        (answer_trainer, "answer_logits"),
        (answer_trainer, "answer_loss"),
        (answer_trainer, "_dataset"),
        (trainer, "make_trainer"),
        (batches.LengthOrder, "__iter__"),
    ]
    before = [(place, name, getattr(place, name)) for place, name in places]
    try:
        without.switch_off(names)
        yield
    finally:
        for place, name, value in before:
            setattr(place, name, value)


def rows() -> list[Encoded]:
    made = []
    for number in range(12):
        prompt = (*BEGIN, *range(200, 203 + number % 5))
        answer = (300 + number % 3, 2)
        made.append(Encoded(prompt + answer, (-100,) * len(prompt) + answer))
    return made


def trained(base: Path, *names: str, **settings: Any) -> dict[str, torch.Tensor]:
    """The adapter's weights, by name."""
    from transformers import AutoTokenizer

    chosen = SETTINGS.model_copy(update=settings)
    hardware = detect(chosen)
    model = load_base(resolve_base(base, RegistrySettings()), chosen, hardware)
    tokenizer = AutoTokenizer.from_pretrained(base)
    with switched_off(*names):
        done = trainer.train_adapter(model, tokenizer, rows(), chosen, hardware)
    return {
        name: weight.detach().clone()
        for name, weight in done.model.named_parameters()
        if weight.requires_grad
    }


def test_what_is_exact_changes_nothing_and_what_is_not_does(tiny_base: Path) -> None:
    as_it_is = trained(tiny_base)

    def distance(other: dict[str, torch.Tensor]) -> float:
        return max(float((as_it_is[n] - other[n].float()).abs().max()) for n in as_it_is)

    assert distance(trained(tiny_base, "bookkeeping")) == 0
    assert distance(trained(tiny_base, "logits")) < 1e-3
    assert distance(trained(tiny_base, share_prefix=False)) < 1e-3
    assert distance(trained(tiny_base, "order")) > 1e-3
    assert distance(trained(tiny_base, "prompts")) > 1e-3
    in_bfloat16 = trained(tiny_base, "float32")
    assert {weight.dtype for weight in in_bfloat16.values()} == {torch.bfloat16}


def test_every_position_has_its_logits_computed(
    tiny_base: Path,
) -> None:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(tiny_base)
    batch = batches.Collator(2, share_prefix=False).collate(rows()[:3])
    widths: list[int] = []
    model.lm_head.register_forward_hook(lambda _m, given, _out: widths.append(given[0].shape[1]))
    few, labels = answer_trainer.answer_logits(model, batch)
    with switched_off("logits"):
        many, same_labels = answer_trainer.answer_logits(model, batch)
    assert widths == [few.shape[1], batch["input_ids"].shape[1]]
    assert widths[0] < widths[1]
    torch.testing.assert_close(few, many)
    assert torch.equal(labels, same_labels)


def test_an_unknown_saving_is_refused_and_the_variants_name_known_ones() -> None:
    with pytest.raises(UsageError, match="no saving 'sleep'"):
        without.switch_off(["sleep"])
    for variant in VARIANTS:
        assert set(variant.without) <= set(without.SAVINGS)
        load_settings(None, list(variant.settings))
    assert VARIANTS[0].without == VARIANTS[0].settings == ()
    timed = [Timed(variant, 10.0 + n, 20.0, 500.0) for n, variant in enumerate(VARIANTS)]
    assert table(timed, 128).row_count == len(VARIANTS)
