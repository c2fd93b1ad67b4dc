"""What a report says of data, on the tiny base."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from registry import Base, RegistrySettings, resolve_base
from train.base_model import load_tokenizer
from train.data.check import check_data
from train.data.coverage import coverage_of
from train.data.formats import Chat, Message
from train.data.masking import IGNORED, ChatEncoder, Encoded, EncodedChat, encode_chats
from train.data.parts import read_data
from train.errors import DataError
from train.settings import TrainSettings

WriteRows = Callable[..., Path]
GOOD = [{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(20)]
USER = {"role": "user", "content": "q"}


@pytest.fixture
def base(home: Path, tiny_base: Path) -> Base:
    return resolve_base(tiny_base, RegistrySettings(home=home))


def test_good_rows_are_counted_as_training_counts_them(base: Base, write_rows: WriteRows) -> None:
    path = write_rows(*GOOD)
    settings = TrainSettings(eval_fraction=0.25, epochs=2, batch_size=5)
    report = check_data(path, None, settings, base)
    assert report.refusals == ()
    encoder = ChatEncoder(load_tokenizer(base), base.id)
    chats = [chat for part in read_data(path, None, settings, str) for chat in part.chats]
    rows = encode_chats(encoder, chats, path, max_length=99, drop_long=False)
    figures = report.as_dict()["data"]
    assert (figures["rows"], figures["usable"], figures["rejected"]) == (20, 20, 0)
    assert figures["tokens"]["all"] == sum(row.length for row in rows)
    assert figures["tokens"]["trained"] == sum(row.trained_tokens for row in rows)
    assert figures["tokens"]["longest"] == max(row.length for row in rows)
    assert {name: found["rows"] for name, found in figures["coverage"].items()} == dict.fromkeys(
        figures["coverage"], 0
    )
    assert report.held_out_rows == 5
    assert report.estimate is not None
    assert report.estimate.steps == 6
    assert report.estimate.seconds > 0
    assert report.estimate.memory_bytes is not None
    assert report.example is not None
    (stretches,) = report.example.sequences
    assert [stretch.trained for stretch in stretches] == [False, True]
    assert stretches[1].text == "It is 0.<|im_end|>"
    assert json.loads(json.dumps(report.as_dict()))["trainable"] is True


def test_a_faulty_row_hides_no_other(base: Base, tmp_path: Path) -> None:
    rows: list[Any] = [
        GOOD[0],
        "no JSON",
        {"prompt": "a"},
        {"messages": [USER, {"role": "assistant", "content": "x", "weight": 0}]},
        {"messages": [USER, {"role": "assistant", "content": "\n\nx"}]},
        GOOD[0],
        {"prompt": GOOD[0]["prompt"], "completion": "other"},
        {"prompt": "long " * 100, "completion": "b"},
        {
            "messages": [
                USER | {"content": "w"},
                {"role": "assistant", "tool_calls": [{"name": "f"}]},
            ]
        },
        {"prompt": "a", "completion": "b<|im_end|>c"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    report = check_data(path, None, TrainSettings(max_length=64), base)
    part = report.data
    assert part.rows == 10
    assert [(problem.line, problem.kind) for problem in part.rejected] == [
        (2, "malformed"),
        (3, "empty"),
        (4, "masked"),
        (9, "template"),
    ]
    assert (part.duplicates, part.same_prompt) == ((6,), (7,))
    coverage = part.coverage
    assert (coverage.too_long, coverage.masked, coverage.empty) == ((8,), (4,), (3,))
    assert (coverage.drift, coverage.stop_inside) == ((5,), (10,))
    assert [reason.partition(": ")[2] for reason in report.refusals] == [
        "4 rows cannot be used",
        "1 rows are longer than 64 tokens (raise max_length, or too_long=drop)",
        "1 rows have token ids that the server would not make (or template_drift=allow)",
    ]
    allowed = TrainSettings(max_length=64, too_long="drop", template_drift="allow")
    assert len(check_data(path, None, allowed, base).refusals) == 1


def test_held_out_rows_that_are_trained_on(base: Base, write_rows: WriteRows) -> None:
    path = write_rows(*GOOD)
    half = write_rows(*GOOD[:2], {"prompt": "new", "completion": "b"}, name="half.jsonl")
    report = check_data(path, half, TrainSettings(), base)
    assert (report.held_out_rows, report.overlap, report.refusals) == (3, (1, 2), ())
    report = check_data(path, path, TrainSettings(), base)
    assert report.refusals == ("every held-out row is among the training rows",)


def test_nothing_to_check_and_no_such_row(base: Base, write_rows: WriteRows) -> None:
    with pytest.raises(DataError, match="has no rows"):
        check_data(write_rows(), None, TrainSettings(), base)
    path = write_rows(GOOD[0], {"prompt": "a"})
    report = check_data(path, None, TrainSettings(), base, row=1)
    assert report.example is not None
    with pytest.raises(DataError, match="line 2: no answer"):
        check_data(path, None, TrainSettings(), base, row=2)
    with pytest.raises(DataError, match="no row at line 3"):
        check_data(path, None, TrainSettings(), base, row=3)
    only_bad = check_data(write_rows({"prompt": "a"}), None, TrainSettings(), base)
    assert (only_bad.estimate, only_bad.example) == (None, None)
    assert only_bad.refusals


def test_the_time_grows_with_rows_and_recomputation(base: Base, write_rows: WriteRows) -> None:
    settings = TrainSettings(eval_fraction=0, gradient_checkpointing=False)

    def operations(rows: int, **changes: Any) -> float:
        path = write_rows(*GOOD[:rows])
        report = check_data(path, None, settings.model_copy(update=changes), base)
        assert report.estimate is not None
        return report.estimate.operations

    assert operations(20) == pytest.approx(2 * operations(10), rel=0.1)
    assert operations(20, epochs=1.0) == pytest.approx(operations(20) / 3)
    assert operations(20, gradient_checkpointing=True) > operations(20)
    assert operations(20, max_steps=1) < operations(20)


def test_doubled_bos_and_rows_without_a_loss() -> None:
    chat = Chat(3, (Message("user", "a"), Message("assistant", "b")))
    whole = EncodedChat(chat, (Encoded((1, 1, 5, 6, 2), (IGNORED,) * 3 + (6, 2)),))
    nothing = EncodedChat(
        replace(chat, line=4), (Encoded((1, 5, 6), (IGNORED,) * 3),), stop_added=True
    )
    found = coverage_of([whole, nothing], [], max_length=4, bos_id=1, stop_ids=[2])
    assert (found.doubled_bos, found.masked, found.too_long) == ((3,), (4,), (3,))
    assert (found.stop_added, found.stop_inside) == ((4,), ())
    assert coverage_of([whole], [], max_length=9, bos_id=None, stop_ids=[2]).doubled_bos == ()
    assert found.as_dict()["masked"] == {"rows": 1, "lines": [4]}
