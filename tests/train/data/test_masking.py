"""Labels: what is trained is the answer and the stop token, after the prompt that is served."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from train.data.formats import Chat, Message
from train.data.masking import IGNORED, ChatEncoder, Encoded, common_length, encode_chats
from train.errors import BaseNotTrainable, DataError

MakeTokenizer = Callable[[str], Any]
# Printable text in several scripts; the templates trim, so no white space at the ends.
TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters="<|>")
    | st.sampled_from(" \n"),
    min_size=1,
    max_size=40,
).map(str.strip).filter(bool)  # fmt: skip


def chat(*contents: str, system: str | None = None) -> Chat:
    """User and assistant in turn."""
    roles = ("user", "assistant")
    turns = tuple(Message(roles[i % 2], content) for i, content in enumerate(contents))
    return Chat(1, (*([Message("system", system)] if system else []), *turns))


def trained_parts(tokenizer: Any, encoded: Encoded) -> list[str]:
    """The text of each run of trained tokens."""
    parts: list[list[int]] = []
    before = IGNORED
    for label in encoded.labels:
        if label != IGNORED:
            if before == IGNORED:
                parts.append([])
            parts[-1].append(label)
        before = label
    return [tokenizer.decode(part) for part in parts]


@pytest.mark.parametrize("template", ["smollm2", "chatml", "llama2"])
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(contents=st.lists(TEXT, min_size=1, max_size=3).flatmap(
    lambda answers: st.tuples(st.just(answers), st.lists(
        TEXT, min_size=len(answers), max_size=len(answers)))), system=st.none() | TEXT)  # fmt: skip
def test_the_answers_and_their_stop_tokens_are_trained_and_nothing_else(
    tokenizer_with: MakeTokenizer,
    template: str,
    contents: tuple[list[str], list[str]],
    system: str | None,
) -> None:
    answers, questions = contents
    tokenizer = tokenizer_with(template)
    turns = [text for pair in zip(questions, answers, strict=True) for text in pair]
    (encoded,) = ChatEncoder(tokenizer, "base").encode(chat(*turns, system=system))
    assert len(encoded.input_ids) == len(encoded.labels)
    assert all(
        label in (IGNORED, token)
        for token, label in zip(encoded.input_ids, encoded.labels, strict=True)
    )
    stop = tokenizer.eos_token
    parts = trained_parts(tokenizer, encoded)
    assert [part.removesuffix(stop).strip() for part in parts] == answers
    assert all(part.endswith(stop) for part in parts)
    assert encoded.input_ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("template", ["smollm2", "chatml", "llama2", "opening", "plain"])
def test_the_prompt_trained_on_is_the_prompt_served(
    tokenizer_with: MakeTokenizer, template: str
) -> None:
    tokenizer = tokenizer_with(template)
    encoder = ChatEncoder(tokenizer, "base")
    example = chat("What is 2 + 2?", "Four.", "And 3 + 3?", "Six, I think.")
    *_, encoded = encoder.encode(example)
    turns = [message.as_dict() for message in example.prompt]
    served = tokenizer.apply_chat_template(
        turns, tokenize=True, add_generation_prompt=True, return_dict=True
    )["input_ids"]
    assert list(encoded.input_ids[: len(served)]) == served
    assert encoder.prompt_ids(example.prompt) == served
    assert encoded.labels[len(served)] != IGNORED
    answer, stop = tokenizer.decode(encoded.input_ids[len(served) :]).split("<|")
    assert answer.strip() == "Six, I think."
    assert stop == "im_end|>"


def test_the_default_system_prompt_is_in_the_prompt(tokenizer_with: MakeTokenizer) -> None:
    tokenizer = tokenizer_with("smollm2")
    (encoded,) = ChatEncoder(tokenizer, "base").encode(chat("Hi", "Hello"))
    assert tokenizer.decode(encoded.input_ids).startswith("<|im_start|>system\nYou are a helpful")


def test_a_turn_of_weight_zero_is_context(tokenizer_with: MakeTokenizer) -> None:
    tokenizer = tokenizer_with("chatml")
    turns = (
        Message("user", "a"),
        Message("assistant", "first", trained=False),
        Message("user", "b"),
        Message("assistant", "second"),
    )
    (encoded,) = ChatEncoder(tokenizer, "base").encode(Chat(1, turns))
    assert trained_parts(tokenizer, encoded) == ["second<|im_end|>"]
    assert "first" in tokenizer.decode(encoded.input_ids)
    turns = (*turns[:3], Message("assistant", "second", trained=False))
    turns = (turns[0], Message("assistant", "first"), *turns[2:])
    (encoded,) = ChatEncoder(tokenizer, "base").encode(Chat(1, turns))
    assert trained_parts(tokenizer, encoded) == ["first<|im_end|>"]
    assert "second" not in tokenizer.decode(encoded.input_ids)


def test_turns_that_the_template_rewrites_become_sequences_of_their_own(
    tokenizer_with: MakeTokenizer,
) -> None:
    tokenizer = tokenizer_with("forgetful")
    encoder = ChatEncoder(tokenizer, "base")
    first, last = encoder.encode(chat("a", "hm</think>one", "b", "well</think>two"))
    assert trained_parts(tokenizer, first) == ["hm</think>one<|im_end|>"]
    assert trained_parts(tokenizer, last) == ["well</think>two<|im_end|>"]
    assert "hm" not in tokenizer.decode(last.input_ids)


def test_a_template_that_rewrites_the_prompt_is_refused(tokenizer_with: MakeTokenizer) -> None:
    tokenizer = copy.deepcopy(tokenizer_with("chatml"))
    tokenizer.chat_template = "{{ messages | length }}" + tokenizer.chat_template
    with pytest.raises(DataError, match="line 1: the chat template renders the prompt otherwise"):
        encode_chats(
            ChatEncoder(tokenizer, "base"),
            [chat("a", "b")],
            Path("rows.jsonl"),
            max_length=99,
            drop_long=False,
        )


def test_what_the_template_refuses_names_the_line(tokenizer_with: MakeTokenizer) -> None:
    twice = Chat(3, (Message("user", "a"), Message("user", "b"), Message("assistant", "c")))
    with pytest.raises(DataError, match=r"line 3: .*roles must alternate"):
        encode_chats(
            ChatEncoder(tokenizer_with("llama2"), "base"),
            [twice],
            Path("rows.jsonl"),
            max_length=99,
            drop_long=False,
        )


def test_a_base_without_a_template_is_refused(tokenizer_with: MakeTokenizer) -> None:
    tokenizer = copy.deepcopy(tokenizer_with("chatml"))
    tokenizer.chat_template = None
    with pytest.raises(BaseNotTrainable, match="org/model has no chat template"):
        ChatEncoder(tokenizer, "org/model")


def test_a_long_row_is_an_error_or_left_out_but_never_cut(tokenizer_with: MakeTokenizer) -> None:
    encoder = ChatEncoder(tokenizer_with("chatml"), "base")
    chats = [chat("a", "b"), chat("a " * 100, "b")]
    path = Path("rows.jsonl")
    with pytest.raises(DataError, match=r"expected at most 50 \(max_length"):
        encode_chats(encoder, chats, path, max_length=50, drop_long=False)
    (kept,) = encode_chats(encoder, chats, path, max_length=50, drop_long=True)
    assert kept.chat is chats[0]
    with pytest.raises(DataError, match="every row is longer"):
        encode_chats(encoder, chats[1:], path, max_length=50, drop_long=True)


def test_common_length() -> None:
    assert common_length(["abc", "abd", "ab"]) == 2
    assert common_length([(1, 2), (1, 2)]) == 2
    assert common_length([(1,), (2,)]) == 0
    assert common_length([]) == 0
