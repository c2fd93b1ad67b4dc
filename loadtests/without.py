"""`lorikeet` without some of its trainer's savings, to learn what each is worth.

    python -m loadtests.without logits,order train --data rows.jsonl --name x --no-publish

The savings that have no setting: `logits` (the output head at trained positions only), `order`
(rows of like length in a batch), `prompts` (no loss on prompts), `bookkeeping` (no entropy and
accuracy of each token), `float32` (the adapter's numbers on a CPU). Without one of them the trainer
does what SFTTrainer does.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import train.answer_trainer
import train.trainer
from registry import UsageError
from registry.terminal import clear_errors
from train.batches import LengthOrder

_ANSWERS: Any = train.answer_trainer
_TRAINER: Any = train.trainer


def all_logits() -> None:
    """Compute the output head at every position, then look at the trained ones."""
    original = _ANSWERS.answer_logits

    def answer_logits(model: Any, batch: dict[str, Any]) -> Any:
        return original(_EveryPosition(model), batch)

    _ANSWERS.answer_logits = answer_logits


class _EveryPosition:
    """A model that computes all logits, whatever it is asked to keep."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.config = model.config

    def __call__(self, *, logits_to_keep: Any = 0, **arguments: Any) -> Any:
        output = self._model(**arguments)
        if not isinstance(logits_to_keep, int):
            output.logits = output.logits[:, logits_to_keep]
        return output


def random_order() -> None:
    """Put rows together as they come in a random order."""

    def shuffled(self: LengthOrder) -> Iterator[int]:
        import torch

        generator = torch.Generator().manual_seed((self.seed << 20) + self.epoch)
        return iter(torch.randperm(len(self), generator=generator).tolist())

    LengthOrder.__iter__ = shuffled  # type: ignore[method-assign]


def train_prompts() -> None:
    """Have the loss of prompts too; no prefix can then be shared."""
    original = _ANSWERS._dataset

    def dataset(rows: Sequence[Any], settings: Any) -> Any:
        return original([replace(row, labels=row.input_ids) for row in rows], settings)

    _ANSWERS._dataset = dataset


def track_entropy() -> None:
    """Work out each token's entropy, and whether the most likely one was right."""
    original = _ANSWERS.answer_loss

    def answer_loss(logits: Any, labels: Any) -> Any:
        import torch

        with torch.no_grad():
            chances = torch.log_softmax(logits.float(), dim=-1)
            float(-(chances.exp() * chances).sum(dim=-1).mean())
            float((logits.argmax(dim=-1) == labels).float().mean())
        return original(logits, labels)

    _ANSWERS.answer_loss = answer_loss


def bfloat16_adapter() -> None:
    """Make the adapter bfloat16 again, as TRL made it."""
    original = _TRAINER.make_trainer

    def make_trainer(*arguments: Any, **named: Any) -> Any:
        trainer = original(*arguments, **named)
        for weight in trainer.model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.bfloat16()
        return trainer

    _TRAINER.make_trainer = make_trainer


SAVINGS: dict[str, Callable[[], None]] = {
    "logits": all_logits,
    "order": random_order,
    "prompts": train_prompts,
    "bookkeeping": track_entropy,
    "float32": bfloat16_adapter,
}


def switch_off(names: Iterable[str]) -> None:
    """Switch these savings off, for all of this process. Raises UsageError."""
    for name in names:
        if name not in SAVINGS:
            raise UsageError(f"there is no saving {name!r}", remedy=f"one of {', '.join(SAVINGS)}")
        SAVINGS[name]()


def main() -> None:
    """The savings, then the command line of `lorikeet`."""
    with clear_errors():
        switch_off(name for name in sys.argv.pop(1).split(",") if name)
    import lorikeet

    lorikeet.main()


if __name__ == "__main__":
    main()
