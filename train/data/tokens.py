"""Token ids of texts that mostly begin alike: the turns of one chat."""

from collections.abc import Sequence
from typing import Any


class Tokens:
    """Token ids as the server makes them of a rendered chat: no special token is added.

    A text that begins like the one before it is tokenised from the last special token on that both
    have, so that a chat of many turns costs no more than its length. That is exact: a tokenizer
    splits a text at its special tokens before anything else.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        self._is_fast = bool(getattr(tokenizer, "is_fast", False))
        self._text = ""
        self._ids: list[int] = []
        self._anchors: list[tuple[int, int, int]] = []
        """Of each special token: where it starts and ends in the text, and its index."""

    def ids(self, text: str) -> list[int]:
        """The token ids of `text`."""
        if not self._is_fast:
            return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        start = index = 0
        anchors = self._shared_anchors(text)
        if anchors:
            start, _, index = anchors.pop()
        encoded = self._tokenizer(
            text[start:], add_special_tokens=False, return_offsets_mapping=True
        )
        new = encoded["input_ids"]
        self._text, self._ids = text, self._ids[:index] + new
        self._anchors = anchors + [
            (start + first, start + last, index + place)
            for place, (first, last) in enumerate(encoded["offset_mapping"])
            if new[place] in self._special
        ]
        return list(self._ids)

    def _shared_anchors(self, text: str) -> list[tuple[int, int, int]]:
        shared = shared_length(self._text, text)
        low, high = 0, len(self._anchors)
        while low < high:
            middle = (low + high) // 2
            if self._anchors[middle][1] <= shared:
                low = middle + 1
            else:
                high = middle
        return self._anchors[:low]


def shared_length(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many elements two strings, or two lists of ids, begin with in common."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while low < high:  # comparing slices is fast, comparing elements is not
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def common_length(sequences: Sequence[Sequence[Any]]) -> int:
    """How many elements all `sequences` begin with."""
    if not sequences:
        return 0
    return min(shared_length(sequences[0], sequence) for sequence in sequences)
