"""What pydantic found wrong with a request, in words and in OpenAI's shape."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from serve.errors import BadRequest

MOST_TOLD = 8
"""Problems in one answer."""
LONGEST_PART = 64

Problem = Mapping[str, Any]
"""One of pydantic's `errors()`."""


def bad_request(
    problems: Sequence[Problem],
    data: Any,
    *,
    known: Mapping[str, Collection[str]] | None = None,
    skip: int = 0,
) -> BadRequest:
    """All problems with `data`, each with its field; `param` is one of these fields.

    Unknown fields of one object are named together, with those that exist where `known` has them,
    by the dotted place of the object ("" for the outermost). The first `skip` parts of each place
    are not told.
    """
    texts: dict[str, list[str]] = {}
    unknown: dict[str, list[str]] = {}
    for problem in problems:
        place = _place(problem["loc"], data)[skip:]
        if problem["type"] == "extra_forbidden" and place:
            unknown.setdefault(".".join(place[:-1]), []).append(place[-1])
        else:
            told = texts.setdefault(".".join(place), [])
            text = str(problem["msg"]).removeprefix("Value error, ")
            if text not in told:
                told.append(text)
    sentences = [_unknown(place, names, known or {}) for place, names in unknown.items()]
    sentences += [_sentence(field, told) for field, told in texts.items()]
    if len(sentences) > MOST_TOLD:
        sentences[MOST_TOLD:] = [f"There are {len(sentences) - MOST_TOLD} more problems."]
    fields = [_joined(place, names[0]) for place, names in unknown.items()] + list(texts)
    return BadRequest(" ".join(sentences), param=next(filter(None, fields), None))


def _place(location: Sequence[int | str], data: Any) -> list[str]:
    """The way to a field in `data`; pydantic's names of a union's branches are no part of it."""
    place: list[str] = []
    for part in location:
        if isinstance(data, dict) and isinstance(part, str):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            continue
        place.append(str(part)[:LONGEST_PART])
    return place


def _unknown(place: str, names: Sequence[str], known: Mapping[str, Collection[str]]) -> str:
    there = known.get(place, ())
    told = ", ".join(f"`{_joined(place, name)}`" for name in names[:MOST_TOLD])
    if len(names) > MOST_TOLD:
        told += f" and {len(names) - MOST_TOLD} more"
    text = f"Unknown field{'s' if len(names) > 1 else ''} {told}."
    near = [match for name in names for match in difflib.get_close_matches(name, there, n=1)]
    if near:
        text += f" Did you mean {' and '.join(f'`{name}`' for name in dict.fromkeys(near))}?"
    if there:
        where = f"`{place}`" if place else "The request"
        text += f" {where} takes {', '.join(there)}."
    return text


def _sentence(field: str, told: Sequence[str]) -> str:
    """Several texts are of the branches of a union: one of them would have to hold."""
    text = " or ".join([told[0], *(t.removeprefix("Input should be ") for t in told[1:])])
    if text == "Field required":
        return f"`{field}` is required." if field else "The request body is required."
    return f"`{field}`: {text}." if field else f"{text[:1].upper()}{text[1:]}."


def _joined(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
