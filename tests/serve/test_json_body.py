"""Bodies that mean one thing only, and that no later reader trips over."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.json_body import MAX_DEPTH, deeper_than, parse

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('ab[]{}"\\'), inner),
    max_leaves=20,
)


@given(VALUES)
def test_what_json_means_is_kept(value: object) -> None:
    assert parse(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"", "Expecting value"),
        (b"{} {}", "Extra data"),
        (b"\xff", "decode"),
        (b'{"n": NaN}', "NaN is not JSON"),
        (b'{"n": -Infinity}', "-Infinity is not JSON"),
        (b'{"n": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"model": "a", "model": "b"}', "same key twice"),
        (b'{"a": {"b": 1, "\\u0062": 2}}', "same key twice"),
        (b'["\\u0000"]', "NUL"),
        (b'{"\\u0000": 1}', "NUL"),
        (b'["\\ud800"]', "surrogate"),
        (b'["\\uDfFf\\uD800"]', "surrogate"),
        (b"[" * 100_000, "nested"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested"),
        (b"[" * 65 + b"]" * 65, "nested"),
    ],
)
def test_what_is_refused(raw: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse(raw)


def test_pairs_of_surrogates_and_escaped_backslashes_are_fine() -> None:
    assert parse(b'["\\ud83d\\ude00", "\\\\u0000"]') == ["\U0001f600", "\\u0000"]


def test_depth_counts_brackets_outside_of_strings() -> None:
    assert parse(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert parse(json.dumps(["[{" * 500, '"[' * 500]).encode())
    assert not deeper_than("[]" * 1000, 1)
    assert deeper_than("[[]]" * 1000, 1)


@pytest.mark.parametrize("raw", [b'["' + b'\\"' * 2**20, b'"' * 2**20, b"[" * 65 + b'"\\' * 2**19])
def test_a_large_broken_body_is_refused_soon(raw: bytes) -> None:
    started = time.process_time()
    with pytest.raises(ValueError, match=r".+"):
        parse(raw)
    assert time.process_time() - started < 1
