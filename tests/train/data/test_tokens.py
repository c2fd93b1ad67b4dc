"""Tokens of growing texts are those of each text alone."""

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from train.data.tokens import Tokens, common_length, shared_length

PIECES = st.sampled_from(
    [
        "<|im_start|>",
        "<|im_end|>",
        "\n",
        " ",
        "  ",
        "user",
        "a",
        "é",
        "🦜",
        "\n\n",
        "<|im_",
        "end|>",
    ]
)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.integers(0, 12), st.lists(PIECES, max_size=8)), max_size=6))
def test_ids_do_not_depend_on_the_texts_before(
    tokenizer_with: Callable[[str], Any], changes: list[tuple[int, list[str]]]
) -> None:
    tokenizer = tokenizer_with("chatml")
    tokens, text = Tokens(tokenizer), ""
    for keep, pieces in changes:
        text = text[:keep] + "".join(pieces) + text[keep : keep + 3]
        assert tokens.ids(text) == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_only_what_is_new_is_tokenised(tokenizer_with: Callable[[str], Any]) -> None:
    tokenizer = tokenizer_with("chatml")
    seen: list[int] = []

    class Counting:
        all_special_ids = tokenizer.all_special_ids
        is_fast = True

        def __call__(self, text: str, **options: Any) -> Any:
            seen.append(len(text))
            return tokenizer(text, **options)

    tokens = Tokens(Counting())
    long = "<|im_start|>" + "why " * 1000 + "<|im_end|>"
    tokens.ids(long)
    assert tokens.ids(long + "more") == tokenizer(long + "more")["input_ids"]
    assert seen == [len(long), len("<|im_end|>more")]


def test_what_begins_alike() -> None:
    assert shared_length("abc", "abd") == 2
    assert shared_length([1, 2], [1, 2, 3]) == 2
    assert shared_length("", "a") == 0
    assert common_length(["abc", "abd", "ab"]) == 2
    assert common_length([(1, 2), (1, 2)]) == 2
    assert common_length([(1,), (2,)]) == 0
    assert common_length([]) == 0
