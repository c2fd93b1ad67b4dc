"""What is expected of a row, how long an answer may be, how many examples a prompt has room for."""

from pathlib import Path
from typing import Any

import pytest

from registry import RegistrySettings, resolve_base
from train.base_model import load_tokenizer, stop_ids
from train.data.chat import Chat, Message, ToolCall
from train.data.masking import IGNORED, ChatEncoder, Encoded, EncodedChat
from train.errors import OutOfMemory
from train.evaluation.scorer import Scorer, fitting_examples, longest_answer
from train.progress import SilentReporter
from train.settings import TrainSettings


def chat(question: str, answer: str) -> Chat:
    return Chat(1, (Message("user", question), Message("assistant", answer)))


@pytest.fixture
def tokenizer(home: Path, tiny_base: Path) -> Any:
    return load_tokenizer(resolve_base(tiny_base, RegistrySettings()))


@pytest.fixture
def encoder(tokenizer: Any, home: Path, tiny_base: Path) -> ChatEncoder:
    return ChatEncoder(tokenizer, "tiny", stop_ids(resolve_base(tiny_base, RegistrySettings())))


def test_of_a_turn_that_calls_tools_the_text_that_makes_the_call_is_expected(
    tokenizer: Any, encoder: ChatEncoder
) -> None:
    said = '{"name": "weather", "arguments": {"place": "Lugo"}}'
    prompt = tokenizer("Rain?", add_special_tokens=False)["input_ids"]
    call = [*tokenizer(said, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    turn = Message("assistant", "", tool_calls=(ToolCall("weather", '{"place": "Lugo"}'),))
    # An earlier answer is trained in the same sequence: only the last one is what is asked for.
    ids = (*prompt, *call, *prompt, *call)
    labels = (*prompt, *call, *[IGNORED] * len(prompt), *call)
    calls = EncodedChat(Chat(1, (Message("user", "Rain?"), turn)), (Encoded(ids, labels),))
    text = chat("Rain?", "No.")
    rows = [calls, EncodedChat(text, tuple(encoder.encode(text)))]
    scorer = Scorer(None, tokenizer, encoder, rows, TrainSettings(), SilentReporter())
    assert scorer._expected == [said, "No."]


def test_no_memory_is_told_with_what_to_lower(
    tokenizer: Any, encoder: ChatEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("train.evaluation.scorer.greedy_answers", full)
    row = encoder.encode_chat(chat("Rain?", "No."))
    scorer = Scorer(None, tokenizer, encoder, [row], TrainSettings(), SilentReporter())
    with pytest.raises(OutOfMemory, match="while evaluating") as caught:
        scorer.run(())
    assert "eval_batch_size" in str(caught.value.remedy)


def test_an_answer_may_be_a_little_longer_than_the_longest_expected(tokenizer: Any) -> None:
    texts = ["yes", "a somewhat longer answer"]
    longest = len(tokenizer(texts[1], add_special_tokens=False)["input_ids"])
    assert longest_answer(tokenizer, texts, TrainSettings()) == longest + 8
    assert longest_answer(tokenizer, texts, TrainSettings(max_new_tokens=3)) == 3


def test_a_prompt_shows_what_it_has_room_for(encoder: ChatEncoder) -> None:
    rows = [chat("short?", "yes"), chat("a much longer question than that one?", "no")]
    examples = [chat(f"example {at}?", "maybe") for at in range(4)]

    def fitting(limit: int | None) -> int:
        found = fitting_examples(encoder, rows, examples, limit=limit, max_new_tokens=10)
        assert found == examples[: len(found)]
        return len(found)

    alone = len(encoder.prompt_ids(rows[1].prompt)) + 10
    counts = [fitting(limit) for limit in range(alone, alone + 100)]
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[-1] == fitting(None) == 4
    two = (*examples[0].messages, *examples[1].messages, *rows[1].prompt)
    needed = len(encoder.prompt_ids(two)) + 10
    assert (fitting(needed - 1), fitting(needed)) == (1, 2)
