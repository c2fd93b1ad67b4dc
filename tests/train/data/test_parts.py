"""The split, the sample and the few-shot examples are fixed by the seed."""

from collections.abc import Callable
from pathlib import Path

from train.data.formats import Chat, Message
from train.data.parts import Part, count_overlap, few_shot_examples, hold_out, read_data, sample
from train.settings import TrainSettings


def chats(count: int) -> list[Chat]:
    return [
        Chat(n, (Message("user", f"q{n // 2}"), Message("assistant", "ab"[n % 2])))
        for n in range(count)
    ]


def test_the_split_is_fixed_by_the_seed_and_parts_the_rows() -> None:
    rows = chats(100)
    training, held_out = hold_out(rows, 0.2, seed=1)
    assert (training, held_out) == hold_out(rows, 0.2, seed=1)
    assert held_out != hold_out(rows, 0.2, seed=2)[1]
    assert len(held_out) == 20
    assert sorted(training + held_out, key=lambda chat: chat.line) == rows
    assert [chat.line for chat in held_out] == sorted(chat.line for chat in held_out)


def test_one_prompt_is_on_one_side() -> None:
    training, held_out = hold_out(chats(100), 0.3, seed=3)
    assert held_out
    assert count_overlap(training, held_out) == 0
    assert count_overlap(held_out, held_out) == len(held_out)


def test_too_few_rows_hold_none_out() -> None:
    assert hold_out(chats(6), 0.1, seed=1) == (chats(6), [])


def test_a_sample_keeps_the_order_and_is_fixed_by_the_seed() -> None:
    drawn = sample(range(50), 10, seed=1)
    assert len(drawn) == 10
    assert list(drawn) == sorted(set(drawn))
    assert drawn == sample(range(50), 10, seed=1)
    assert drawn != sample(range(50), 10, seed=2)
    assert sample(range(5), None, seed=1) == sample(range(5), 9, seed=1) == (0, 1, 2, 3, 4)


def test_parts_of_the_rows_are_taken_after_the_split(write_rows: Callable[..., Path]) -> None:
    path = write_rows(*({"prompt": f"q{n}", "completion": "a"} for n in range(20)))
    notes: list[str] = []
    settings = TrainSettings(eval_fraction=0.5, max_rows=4, max_eval_rows=3)
    training, held_out = read_data(path, None, settings, notes.append)
    assert (len(training.chats), len(held_out.chats)) == (4, 3)
    assert notes == []
    few = write_rows({"prompt": "q", "completion": "a"}, name="few.jsonl")
    training, held_out = read_data(few, None, settings, notes.append)
    assert (len(training.chats), len(held_out.chats)) == (1, 0)
    assert "too few" in notes[0]
    read_data(path, write_rows(
        {"prompt": "q1", "completion": "a"}, {"prompt": "new", "completion": "a"}, name="h.jsonl"
    ), settings, notes.append)  # fmt: skip
    assert notes[1] == "1 of 2 held-out rows are trained on too"


def test_examples_come_from_their_file_or_from_the_training_rows(
    write_rows: Callable[..., Path],
) -> None:
    training = Part(Path("rows.jsonl"), tuple(chats(8)))
    drawn = few_shot_examples(TrainSettings(few_shot_rows=3), training)
    assert [chat.answer for chat in drawn] == ["a", "b", "a"]
    file = write_rows(*({"prompt": f"q{n}", "completion": "a"} for n in range(4)))
    settings = TrainSettings(few_shot_data=file, few_shot_rows=2)
    assert [chat.prompt[0].content for chat in few_shot_examples(settings, training)] == [
        "q0",
        "q1",
    ]
    assert few_shot_examples(TrainSettings(baselines=False), training) == ()


def test_plain_texts_are_told_apart_by_what_they_say(write_rows: Callable[..., Path]) -> None:
    path = write_rows(*({"text": f"text number {n}"} for n in range(20)))
    other = write_rows({"text": "another text"}, name="other.jsonl")
    settings = TrainSettings(eval_fraction=0.5, data_format="text")
    training, held_out = read_data(path, None, settings, lambda _: None)
    assert (len(training.chats), len(held_out.chats)) == (10, 10)
    training, held_out = read_data(path, other, settings, lambda _: None)
    assert (len(training.chats), len(held_out.chats)) == (20, 1)
