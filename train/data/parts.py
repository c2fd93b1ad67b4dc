"""Which chats are trained on, which are held out, and which are shown in a few-shot prompt."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from train.data.chat import Chat, Message
from train.data.formats import to_chats
from train.data.rows import OnNote, read_rows
from train.errors import DataError
from train.evaluation.scores import choose_examples
from train.settings import TrainSettings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Part:
    """Chats, and the file that they come from."""

    path: Path
    chats: tuple[Chat, ...]


def read_part(path: Path, settings: TrainSettings, on_note: OnNote | None = None) -> Part:
    """All chats of a file or data set, of the settings' `data_format`.

    Raises DataFileMissing or DataError.
    """
    rows = read_rows(path, on_note) if on_note else read_rows(path)
    return Part(path, tuple(to_chats(path, rows, settings.data_format)))


def read_own(path: Path) -> Part:
    """All chats of a file that a run has written: messages, whatever its data were."""
    return Part(path, tuple(to_chats(path, read_rows(path), "messages")))


def read_data(
    data: Path, eval_data: Path | None, settings: TrainSettings, on_note: OnNote
) -> tuple[Part, Part]:
    """The chats to train on and the held-out ones, from `eval_data` or split off by the seed.

    A held-out chat that asks what is trained is left out. Raises DataFileMissing or DataError; also
    where that leaves none.
    """
    training = read_part(data, settings, on_note)
    if eval_data is not None:
        held_out = read_part(eval_data, settings, on_note)
    else:
        rest, held = hold_out(training.chats, settings.eval_fraction, settings.seed)
        training, held_out = replace(training, chats=tuple(rest)), Part(data, tuple(held))
        if settings.eval_fraction and not held:
            on_note(f"{len(rest)} rows are too few to hold any out: the adapter is not evaluated")
    training = replace(training, chats=sample(training.chats, settings.max_rows, settings.seed))
    unseen = unasked(held_out.chats, training.chats)
    if held_out.chats and not unseen:
        raise DataError(
            "every held-out row is among the training rows: it would measure nothing",
            remedy="give --eval-data rows that are not in --data",
        )
    if overlap := len(held_out.chats) - len(unseen):
        on_note(
            f"{overlap} of {len(held_out.chats)} held-out rows are trained on too: "
            "left out of the evaluation"
        )
    chosen = sample(unseen, settings.max_eval_rows, settings.seed)
    return training, replace(held_out, chats=chosen)


def few_shot_examples(
    settings: TrainSettings, training: Part, held_out: Part, on_note: OnNote
) -> tuple[Chat, ...]:
    """What a few-shot prompt shows: rows of `few_shot_data`, or else of the training rows.

    None of them asks what a held-out row asks.
    """
    if not settings.baselines:
        return ()
    if settings.few_shot_data is not None:
        named = read_part(settings.few_shot_data, settings).chats
        shown = unasked(named, held_out.chats)
        if left_out := len(named) - len(shown):
            name = settings.few_shot_data.name
            on_note(f"{left_out} rows of {name} are held-out rows: left out of the few-shot prompt")
        return shown[: settings.few_shot_rows]
    return tuple(choose_examples(training.chats, settings.few_shot_rows))


def hold_out(chats: Sequence[Chat], fraction: float, seed: int) -> tuple[list[Chat], list[Chat]]:
    """The chats to train on, and `fraction` of them held out; both keep the file's order.

    Rows with one and the same prompt stay on one side. Where the rows are too few for the fraction
    to be one row, none is held out.
    """
    groups: dict[tuple[Message, ...], list[int]] = {}
    for index, chat in enumerate(chats):
        groups.setdefault(chat.question, []).append(index)
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    wanted = int(len(chats) * fraction)
    held: set[int] = set()
    for group in order:
        if len(held) + len(group) <= wanted:
            held.update(group)
    return (
        [chat for index, chat in enumerate(chats) if index not in held],
        [chat for index, chat in enumerate(chats) if index in held],
    )


def sample(items: Sequence[T], most: int | None, seed: int) -> tuple[T, ...]:
    """At most `most` of `items`, drawn with the seed, in their order; all where `most` is None."""
    if most is None or most >= len(items):
        return tuple(items)
    chosen = set(random.Random(seed).sample(range(len(items)), most))
    return tuple(item for index, item in enumerate(items) if index in chosen)


def unasked(chats: Sequence[Chat], others: Sequence[Chat]) -> tuple[Chat, ...]:
    """Those of `chats` that ask what none of `others` asks."""
    asked = {chat.question for chat in others}
    return tuple(chat for chat in chats if chat.question not in asked)
