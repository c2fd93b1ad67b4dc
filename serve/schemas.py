"""JSON schemas that a client sends: which are well formed, and what compiling one costs.

Tools and structured answers become grammars in the engine. What a grammar compiler would choke
on is refused here, with the place; what it would take long for is priced in centiseconds of CPU
time (measured with xgrammar 0.2.8 and 49,152 tokens), and the sum over a request is bounded.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

from serve.patterns import pattern_cost

MAX_DEPTH = 32
MAX_NODES = 4096
MAX_COST = 200.0
"""Centiseconds of CPU time for all schemas of a request: a second where two cores are free."""
INT32 = 2**31

TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
BOUNDS = (
    ("minLength", "maxLength"),
    ("minItems", "maxItems"),
    ("minProperties", "maxProperties"),
    ("minContains", "maxContains"),
)
NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
TEXTS = ("pattern", "format", "title", "description", "$schema", "$id", "$comment")
MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
LISTS = ("prefixItems", "anyOf", "allOf", "oneOf")
SCHEMAS = (
    *("items", "additionalProperties", "unevaluatedProperties", "unevaluatedItems"),
    *("propertyNames", "contains", "not", "if", "then", "else"),
)


def schema_cost(schema: Any) -> float:
    """CPU time to compile a schema, about, in centiseconds.

    Raises: ValueError that says what is wrong with it.
    """
    return _measured(schema) + _Reading(schema).cost()


def _measured(data: Any) -> float:
    """The price of the sheer amount of data; refuses what is too deep, too large or not finite."""
    nodes, characters, stack = 0, 0, [(data, 1)]
    while stack:
        node, depth = stack.pop()
        nodes += 1
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            raise ValueError(
                f"the schema is nested over {MAX_DEPTH} levels or has over {MAX_NODES} parts"
            )
        if isinstance(node, dict):
            characters += sum(map(len, node))
            stack += [(child, depth + 1) for child in node.values()]
        elif isinstance(node, list):
            stack += [(child, depth + 1) for child in node]
        elif isinstance(node, str):
            characters += len(node)
        elif isinstance(node, float) and not math.isfinite(node):
            raise ValueError("a number in the schema is not finite")
    return nodes / 100 + characters / 1000


class _Reading:
    """One pass over a schema and everything that it refers to."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._pending: list[Any] = [root]
        self._seen: set[int] = set()
        self._lengths: set[tuple[int, int | None]] = set()
        self._patterns: set[str] = set()

    def cost(self) -> float:
        total = 0.0
        while self._pending:
            schema = self._pending.pop()
            if isinstance(schema, bool) or id(schema) in self._seen:
                continue
            if not isinstance(schema, dict):
                raise ValueError("a schema must be an object, true or false")
            self._seen.add(id(schema))
            for check in (self._words, self._shape, self._reference):
                check(schema)
            self._pending += _children(schema)
            total += self._bounded(schema)
        total += sum(map(pattern_cost, self._patterns))
        return total + sum(_length_cost(*bounds) for bounds in self._lengths)

    def _words(self, schema: dict[str, Any]) -> None:
        for key in TEXTS:
            _expect(schema, key, "a text", lambda value: isinstance(value, str))
        kinds = schema.get("type", "object")
        kinds = kinds if isinstance(kinds, list) else [kinds]
        if not kinds or not all(isinstance(kind, str) and kind in TYPES for kind in kinds):
            raise ValueError(f"a `type` must be one of {', '.join(sorted(TYPES))}, or a list")
        if "pattern" in schema:
            self._patterns.add(schema["pattern"])
        if isinstance(schema.get("patternProperties"), dict):
            self._patterns.update(schema["patternProperties"])

    def _shape(self, schema: dict[str, Any]) -> None:
        for key in MAPS:
            _expect(schema, key, "an object", lambda value: isinstance(value, dict))
        for key in (*LISTS, "enum"):
            _expect(schema, key, "a list, not empty", lambda v: isinstance(v, list) and v != [])
        _expect(
            schema,
            "required",
            "a list of texts",
            lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value),
        )
        for key in NUMBERS:
            _expect(schema, key, "a number", _number)
        for low, high in BOUNDS:
            for key in (low, high):
                _expect(schema, key, f"a whole number from 0 to {INT32 - 1}", _whole)
            if schema.get(low, 0) > schema.get(high, INT32):
                raise ValueError(f"a `{low}` is over its `{high}`")

    def _reference(self, schema: dict[str, Any]) -> None:
        """Follow `$ref`; it stays inside the schema and leads to something other than `$ref`."""
        for key in ("$dynamicRef", "$recursiveRef"):
            if key in schema:
                raise ValueError(f"`{key}` is not supported: use `$ref`")
        followed: set[int] = set()
        while isinstance(schema, dict) and "$ref" in schema:
            if id(schema) in followed:
                raise ValueError("a `$ref` leads back to itself and to nothing else")
            followed.add(id(schema))
            schema = self._resolved(schema["$ref"])
        if followed:
            self._pending.append(schema)

    def _resolved(self, reference: Any) -> Any:
        if not isinstance(reference, str) or not (reference + "/").startswith("#/"):
            raise ValueError("a `$ref` must point into the schema itself, as `#/$defs/name`")
        node = self._root
        for part in reference.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(node, dict) and key in node:
                node = node[key]
            elif isinstance(node, list) and key.isdecimal() and int(key) < len(node):
                node = node[int(key)]
            else:
                raise ValueError("a `$ref` points to nothing in the schema")
        return node

    def _bounded(self, schema: dict[str, Any]) -> float:
        """The price of this schema alone; that of lengths is collected, each once."""
        if "minLength" in schema or "maxLength" in schema:
            self._lengths.add((schema.get("minLength", 0), schema.get("maxLength")))
        properties = len(schema.get("properties", ()))
        cost = properties**2 / 2500 + 2 * ("format" in schema)
        if "minProperties" in schema or "maxProperties" in schema:
            bound = schema.get("maxProperties", schema.get("minProperties", 0))
            cost += properties * min(properties, bound) / 50
        return cost


def _children(schema: dict[str, Any]) -> Iterator[Any]:
    for key in MAPS:
        yield from schema.get(key, {}).values()
    for key in LISTS:
        yield from schema.get(key, [])
    for key in SCHEMAS:
        if key in schema:
            yield schema[key]


def _length_cost(least: int, most: int | None) -> float:
    """A state for each character up to 128; beyond, the compiler counts, which costs 1.9 s."""
    if most is None:
        return 0.5 * min(least, 130)
    return float(most if most <= 128 else 190 if least < 128 else 65)


def _expect(schema: dict[str, Any], key: str, what: str, fits: Callable[[Any], bool]) -> None:
    if key in schema and not fits(schema[key]):
        raise ValueError(f"a `{key}` must be {what}")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < INT32
