"""Texts with markers become turns."""

import pytest

from train.data.rejected import Unusable
from train.data.text import turns_of


def read(text: str, *, plain: bool = False) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in turns_of(text, plain=plain)]


WANTED = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello\n\nyou")]


def test_chatml() -> None:
    text = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello\n\nyou<|im_end|>\n"
    )
    assert read(text) == WANTED
    assert read("<s>" + text) == WANTED
    with pytest.raises(Unusable, match="'stray' is in no turn"):
        read(text + "stray")
    with pytest.raises(Unusable, match="is in no turn"):
        read(text.removesuffix("<|im_end|>\n"))


def test_llama() -> None:
    text = "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello\n\nyou </s>"
    assert read(text) == WANTED


def test_alpaca_headings() -> None:
    opening = (
        "Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request.\n\n"
    )
    body = "### Instruction:\nTranslate.\n\n### Input:\ngato\n\n### Response:\ncat</s>"
    wanted = [("user", "Translate.\n\ngato"), ("assistant", "cat")]
    assert read(opening + body) == read("<s>" + opening + body) == read(body) == wanted
    assert read("Be brief.\n\n" + body) == [("system", "Be brief."), *wanted]
    with pytest.raises(Unusable, match="nothing under ### Instruction:"):
        read("### Instruction:\n\n### Response:\nb")
    with pytest.raises(Unusable, match="without ### Instruction"):
        read("### Human: a ### Assistant: b ### Input: c")


def test_guanaco_headings_with_more_turns() -> None:
    text = "### Human: Hi### Assistant: Hello### Human: Again?\n### Assistant: No."
    assert read(text) == [
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "Again?"),
        ("assistant", "No."),
    ]


def test_the_first_kind_of_markers_counts() -> None:
    assert read("[INST] What is <|im_start|>? [/INST] ChatML")[0] == (
        "user",
        "What is <|im_start|>?",
    )


def test_text_without_markers_is_trained_only_where_that_was_asked_for() -> None:
    with pytest.raises(Unusable, match=r"no .* markers") as caught:
        read("Once upon a time")
    assert "data_format=text" in caught.value.expected
    assert read(" Once upon a time\n", plain=True) == [
        ("user", ""),
        ("assistant", "Once upon a time"),
    ]
