"""Labels: what is trained is the answer and the stop token, after the prompt that is served."""

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from train.data.chat import Chat, Message, ToolCall
from train.data.masking import IGNORED, ChatEncoder, Encoded, encode_chats, try_encode
from train.data.rejected import Rejected
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


@pytest.mark.parametrize("bos", [None, "<|endoftext|>"])
def test_a_base_without_a_template_gets_the_plain_one(
    tokenizer_with: MakeTokenizer, bos: str | None
) -> None:
    tokenizer = copy.deepcopy(tokenizer_with("chatml"))
    tokenizer.chat_template = None
    tokenizer.bos_token = bos or tokenizer.eos_token
    encoder = ChatEncoder(tokenizer, "org/model")
    assert encoder.plain
    row = encoder.encode_chat(chat("Hi ", "Hello", "More?", "No.", system="Be brief."))
    (encoded,) = row.sequences
    assert tokenizer.decode(encoded.input_ids) == (
        f"{bos or ''}System:\nBe brief.\nUser:\nHi\nAssistant:\nHello<|im_end|>\n"
        "User:\nMore?\nAssistant:\nNo.<|im_end|>"
    )
    assert trained_parts(tokenizer, encoded) == ["Hello<|im_end|>", "No.<|im_end|>"]
    assert (row.drift, row.stop_added, row.rewritten) == (None, False, False)
    assert not ChatEncoder(tokenizer_with("chatml"), "base").plain


def test_a_base_with_neither_template_nor_stop_token_is_refused(
    tokenizer_with: MakeTokenizer,
) -> None:
    tokenizer = copy.deepcopy(tokenizer_with("chatml"))
    tokenizer.chat_template = tokenizer.eos_token = None
    with pytest.raises(BaseNotTrainable, match="org/model has neither a chat template"):
        ChatEncoder(tokenizer, "org/model")


def test_the_plain_template_refuses_what_it_would_leave_out(
    tokenizer_with: MakeTokenizer,
) -> None:
    tokenizer = copy.deepcopy(tokenizer_with("chatml"))
    tokenizer.chat_template = None
    encoder = ChatEncoder(tokenizer, "org/model")
    call = Message("assistant", "", tool_calls=(ToolCall("f", "{}"),))
    tool = {"type": "function", "function": {"name": "f"}}
    for row in (
        Chat(1, (Message("user", "a"), call)),
        Chat(1, (Message("user", "a"), call, Message("tool", "1"), Message("assistant", "b"))),
        Chat(1, (Message("user", "a"), Message("assistant", "b")), (tool,)),
    ):
        problem = try_encode(encoder, row, None)
        assert isinstance(problem, Rejected)
        assert "plain template has no" in problem.message


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


def test_turns_of_many_lengths_cost_no_more_than_the_row(tokenizer_with: MakeTokenizer) -> None:
    encoder = ChatEncoder(tokenizer_with("smollm2"), "base")
    one = chat("why " * 50_000, "so " * 50_000)
    many = chat(*("word " * 500 for _ in range(200)))
    start = time.perf_counter()
    for row in (one, many):
        (encoded,) = encoder.encode(row)
        assert len(encoded.input_ids) > 100_000
    assert time.perf_counter() - start < 20  # 2 s; each turn tokenised whole, it takes minutes
    start = time.perf_counter()
    path = Path("rows.jsonl")
    with pytest.raises(DataError, match=r"line 1: 10\d{4} tokens; expected at most 1024"):
        encode_chats(encoder, [one], path, max_length=1024, drop_long=False)
    short = chat("a", "b")
    (kept,) = encode_chats(encoder, [one, many, short], path, max_length=1024, drop_long=True)
    assert kept.chat is short
    measured = encoder.encode_chat(chat(*("word " for _ in range(4000))), 1024, measure=True)
    assert measured.longest > 4000
    assert 0 < measured.trained_tokens < 10
    assert time.perf_counter() - start < 10  # 3 s; with each turn rendered, it takes minutes


@pytest.mark.parametrize("role", ["system", "tool"])
def test_a_role_that_the_template_refuses_is_named(
    tokenizer_with: MakeTokenizer, role: str
) -> None:
    tokenizer = copy.deepcopy(tokenizer_with("chatml"))
    refusing = "{% for m in messages %}{% if m['role'] == '" + role + "' %}"
    refusing += "{{ raise_exception('not supported') }}{% endif %}{% endfor %}"
    tokenizer.chat_template = refusing + tokenizer.chat_template
    turns = [Message("user", "a"), Message("assistant", "b")]
    turns.insert(0 if role == "system" else 1, Message(role, "x"))
    with pytest.raises(DataError, match=f"line 4: .*refuses the role {role}.*not supported"):
        encode_chats(
            ChatEncoder(tokenizer, "base"),
            [Chat(4, tuple(turns))],
            Path("rows.jsonl"),
            max_length=99,
            drop_long=False,
        )


def test_what_the_template_leaves_out_without_a_word_is_refused(
    tokenizer_with: MakeTokenizer,
) -> None:
    tokenizer = copy.deepcopy(tokenizer_with("chatml"))
    silent = tokenizer.chat_template.replace(
        "{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}"
    )
    tokenizer.chat_template = silent
    encoder = ChatEncoder(tokenizer, "base")
    call = Message("assistant", "", tool_calls=(ToolCall("f", "{}"),))
    tools = ({"type": "function", "function": {"name": "f"}},)
    for row, what in (
        (chat("a", "b", system="s"), "a turn of the role system"),
        (Chat(1, (Message("user", "a"), call)), "the assistant's tool calls"),
        (Chat(1, chat("a", "b").messages, tools), "the row's tools"),
    ):
        problem = try_encode(encoder, row, None)
        assert isinstance(problem, Rejected)
        assert problem.message == f"the base's chat template leaves out {what}"
        assert problem.kind == "template"
    assert not isinstance(try_encode(encoder, chat("a", "b"), None), Rejected)


def test_calls_are_trained_and_results_and_tools_are_read(tokenizer_with: MakeTokenizer) -> None:
    tokenizer = copy.deepcopy(tokenizer_with("chatml"))
    tokenizer.chat_template = (
        "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
        "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>"
        "{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    turns = (
        Message("user", "Weather?"),
        Message("assistant", "", tool_calls=(ToolCall("weather", '{"city": "Lima"}', "c1"),)),
        Message("tool", "20", tool_call_id="c1"),
        Message("assistant", "20 °C"),
    )
    tool = {"type": "function", "function": {"name": "weather", "description": None}}
    row = ChatEncoder(tokenizer, "base").encode_chat(Chat(1, turns, (tool,)))
    (encoded,) = row.sequences
    assert trained_parts(tokenizer, encoded) == [
        '<tool_call>{"arguments": {"city": "Lima"}, "name": "weather"}</tool_call><|im_end|>',
        "20 °C<|im_end|>",
    ]
    assert '"description": null' in tokenizer.decode(encoded.input_ids)
    assert row.drift is None


def test_tokens_that_merge_over_the_boundary_are_drift(tokenizer_with: MakeTokenizer) -> None:
    encoder = ChatEncoder(tokenizer_with("chatml"), "base")
    row = Chat(7, chat("a", "\n\nHello").messages)
    drift = encoder.encode_chat(row).drift
    assert drift is not None
    assert (drift.line, drift.turn, drift.where) == (7, 2, "the answered chat")
    prompt = encoder.prompt_ids(row.prompt)
    assert drift.position == len(prompt) - 1
    assert drift.trained[3] == "\n"
    assert drift.served[3] == "\n\n"
    path = Path("rows.jsonl")
    with pytest.raises(DataError, match=r"line 7: turn 2, token \d+: .*or template_drift=allow"):
        encode_chats(encoder, [row], path, max_length=99, drop_long=False)
    (kept,) = encode_chats(encoder, [row], path, max_length=99, drop_long=False, allow_drift=True)
    assert list(kept.sequences[0].input_ids[: len(prompt)]) == prompt


def test_a_prompt_that_opens_what_the_chat_has_not_is_drift(tokenizer_with: MakeTokenizer) -> None:
    drift = ChatEncoder(tokenizer_with("opening"), "base").encode_chat(chat("a", "Six")).drift
    assert drift is not None
    assert "think" in "".join(drift.trained)
    assert "Six" in "".join(drift.served)


def test_an_answer_that_merges_with_the_next_turn_is_drift(tokenizer_with: MakeTokenizer) -> None:
    tokenizer = copy.deepcopy(tokenizer_with("chatml"))
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>{% endif %}"
    ).replace("{{ m['content'] }}", "{% if m['role'] == 'assistant' %}<|im_start|>{% endif %}"
              "{{ m['content'] }}")  # fmt: skip
    row = ChatEncoder(tokenizer, "base").encode_chat(chat("a", "in", "side", "b"))
    assert row.stop_added
    assert row.drift is not None
    assert row.drift.where == "the next turn's prompt"
    assert "inside" in "".join(row.drift.served)


def test_an_answer_that_later_turns_show_otherwise_is_noted(tokenizer_with: MakeTokenizer) -> None:
    encoder = ChatEncoder(tokenizer_with("forgetful"), "base")
    row = encoder.encode_chat(chat("a", "hm</think>one"))
    assert row.rewritten
    assert row.drift is None
    assert not encoder.encode_chat(chat("a", "one")).rewritten


def test_an_answer_ends_at_the_first_stop_token_after_its_words(
    tokenizer_with: MakeTokenizer,
) -> None:
    tokenizer = tokenizer_with("phi3")
    encoder = ChatEncoder(tokenizer, "base", [tokenizer.convert_tokens_to_ids("<|endoftext|>")])
    row = encoder.encode_chat(chat("a", "one", "b", "two"))
    assert (row.stop_added, row.rewritten, row.drift) == (False, False, None)
    (sequence,) = row.sequences
    assert trained_parts(tokenizer, sequence) == ["one<|im_end|>", "two<|im_end|>"]
    (sequence,) = encoder.encode(chat("a", "<|im_end|> ends <|endoftext|> it"))
    said = "".join(trained_parts(tokenizer, sequence))
    assert said == "<|im_end|> ends <|endoftext|> it<|im_end|>"


def test_a_stop_token_is_added_and_nothing_that_follows_is_trained(
    tokenizer_with: MakeTokenizer,
) -> None:
    tokenizer = tokenizer_with("plain")
    row = ChatEncoder(tokenizer, "base").encode_chat(chat("a", "one", "b", "two"))
    assert row.stop_added
    assert [trained_parts(tokenizer, sequence) for sequence in row.sequences] == [
        [" one<|im_end|>"],
        [" two<|im_end|>"],
    ]
    row = ChatEncoder(tokenizer, "base").encode_chat(chat("a", "one <|im_end|> two"))
    assert row.stop_added
    assert trained_parts(tokenizer, row.sequences[0]) == [" one <|im_end|> two<|im_end|>"]
