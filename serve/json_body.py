"""JSON as a client sends it, read strictly: one meaning, and nothing that trips a later reader."""

import json
import re
from collections.abc import Iterator
from typing import Any

MAX_DEPTH = 64
"""Objects and lists within each other."""

# To the closing quote, or to the end of the text where there is none.
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_SUSPECT = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")


def parse(raw: bytes) -> Any:
    """The value of a JSON text in UTF-8.

    Raises: ValueError for bytes that are not one, for NaN and Infinity, a key that comes twice in
    an object, more than MAX_DEPTH levels, and for strings with a NUL or half a surrogate pair.
    """
    text = raw.decode("utf-8")  # UnicodeDecodeError is a ValueError
    if deeper_than(text, MAX_DEPTH):
        raise ValueError(f"it is nested over {MAX_DEPTH} levels")
    value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
    if _SUSPECT.search(text):
        for string in _strings(value):
            if "\0" in string:
                raise ValueError("a string has a NUL character in it")
            if not string.isascii() and any("\ud800" <= char <= "\udfff" for char in string):
                raise ValueError("a string has half a surrogate pair in it")
    return value


def deeper_than(text: str, levels: int) -> bool:
    """Whether the brackets of a JSON text are nested deeper; found without recursion."""
    if text.count("[") + text.count("{") <= levels:
        return False
    brackets = _STRING.sub("", text).encode().translate(_BRACKETS, _NO_BRACKETS)
    for _ in range(levels):  # peel the innermost pairs off
        outer = brackets.replace(b"[]", b"")
        if len(outer) == len(brackets):
            break
        brackets = outer
    return len(brackets) > 2 * levels or b"[]" in brackets


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("an object has the same key twice")
    return value


def _strings(value: Any) -> Iterator[str]:
    stack = [value]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            yield node
        elif isinstance(node, dict):
            stack += node
            stack += node.values()
        elif isinstance(node, list):
            stack += node
