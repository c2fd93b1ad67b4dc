"""JSON schemas: what passes is compiled soon by the engine's compiler, the rest is refused."""

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from serve.schemas import MAX_COST, schema_cost

TEXT = {"type": "string"}
BOUND_SECONDS = 4.0
"""CPU time; the budget of MAX_COST is half of it, and the prices are rough."""


def properties(count: int, schema: Any = TEXT, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{i}": schema for i in range(count)}, **more}


def nested(levels: int, inner: Any = TEXT) -> Any:
    for _ in range(levels):
        inner = properties(1, inner)
    return inner


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"type": "stsring"}, "`type` must be one of"),
        ({"type": 5}, "`type` must be one of"),
        ({"type": []}, "`type` must be one of"),
        ({"type": ["string", 5]}, "`type` must be one of"),
        ({"type": {"a": 1}}, "`type` must be one of"),
        ({"pattern": 5}, "`pattern` must be a text"),
        ({"pattern": "("}, "a pattern is not usable"),
        ({"patternProperties": {"(": TEXT}}, "a pattern is not usable"),
        ({"properties": [TEXT]}, "`properties` must be an object"),
        ({"properties": {"a": "string"}}, "must be an object, true or false"),
        ({"items": [TEXT]}, "must be an object, true or false"),
        ({"anyOf": []}, "`anyOf` must be a list, not empty"),
        ({"enum": []}, "`enum` must be a list, not empty"),
        ({"enum": "abc"}, "`enum` must be a list, not empty"),
        ({"required": "a"}, "`required` must be a list of texts"),
        ({"minLength": -1}, "`minLength` must be a whole number"),
        ({"maxLength": "5"}, "`maxLength` must be a whole number"),
        ({"maxItems": True}, "`maxItems` must be a whole number"),
        ({"minItems": 10**30}, "`minItems` must be a whole number"),
        ({"minProperties": 5, "maxProperties": 2}, "over its `maxProperties`"),
        ({"minimum": "1"}, "`minimum` must be a number"),
        ({"maximum": float("inf")}, "not finite"),
        ({"$ref": "https://example.com/schema"}, "point into the schema itself"),
        ({"$ref": "#anchor"}, "point into the schema itself"),
        ({"$ref": 5}, "point into the schema itself"),
        ({"$ref": "#/$defs/none"}, "points to nothing"),
        ({"$ref": "#"}, "leads back to itself"),
        (
            {
                "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
                "$ref": "#/$defs/a",
            },
            "leads back to itself",
        ),
        ({"$defs": {"a": {"type": "no"}}, "$ref": "#/$defs/a"}, "`type` must be one of"),
        ({"x": {"type": "no"}, "$ref": "#/x"}, "`type` must be one of"),
        ({"$dynamicRef": "#a"}, "not supported"),
        (nested(20), "nested"),
        ({"enum": list(range(5000))}, "parts"),
    ],
)
def test_what_is_not_a_schema_is_refused(schema: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        schema_cost(schema)


def test_names_of_properties_and_values_of_enums_are_no_keywords() -> None:
    names = ("type", "pattern", "$ref", "required", "minLength", "enum")
    assert schema_cost({"properties": dict.fromkeys(names, TEXT)}) < 5
    assert schema_cost({"enum": [{"type": "no", "$ref": 5}], "default": {"pattern": "("}}) < 5


def test_a_schema_may_refer_to_itself_through_its_parts() -> None:
    tree = {"type": "object", "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}}
    assert schema_cost(tree) < 5
    listed = {"$defs": {"a~b": {"items": {"$ref": "#/$defs/a~0b"}}}, "$ref": "#/$defs/a~0b"}
    assert schema_cost(listed) < 5


@pytest.mark.parametrize(
    "schema",
    [
        {"maxLength": 500, "properties": {"a": {"maxLength": 400}}},
        properties(1000),
        properties(200, minProperties=60, maxProperties=100),
        {"const": "x" * 1_000_000},
        {"properties": {"ab" * 500_000: TEXT}},
        {"prefixItems": [{"maxLength": 20 + i} for i in range(10)]},
    ],
)
def test_what_takes_the_compiler_seconds_is_over_the_budget(schema: Any) -> None:
    assert schema_cost(schema) > MAX_COST


NEAR_THE_BUDGET: dict[str, Any] = {
    "properties": properties(600),
    "counted properties": properties(100, minProperties=10, maxProperties=50),
    "a long text": TEXT | {"maxLength": 4096},
    "one length for many": properties(60, TEXT | {"maxLength": 300}),
    "short texts": {"prefixItems": [TEXT | {"maxLength": 10 + i} for i in range(10)]},
    "literals": {"enum": [f"{i:060}" for i in range(2500)]},
    "choices": {"anyOf": [properties(1, {"enum": [str(i)]}) for i in range(500)]},
    "patterns": {"anyOf": [{"type": "string", "pattern": f"^a{i}.*$"} for i in range(150)]},
    "words": {"type": "string", "pattern": r"^(\w+\s?){1,20}$"},
    "runs": {"type": "string", "pattern": r"^.{1,20}.{1,20}[a-z]{1,15}$"},
    "nested": nested(14, properties(100)),
}


@pytest.fixture(scope="module")
def compiled(embedded_base: Any) -> Any:
    """Compile as the engine does; CPU seconds."""
    xgrammar = pytest.importorskip("xgrammar")
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(Path(embedded_base.path))
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=49152)

    def seconds(schema: Any) -> float:
        compiler = xgrammar.GrammarCompiler(info, max_threads=8, cache_enabled=False)
        started = time.process_time()
        try:
            xgrammar.Grammar.from_json_schema(schema)
            compiler.compile_json_schema(json.dumps(schema))
        except Exception as error:  # the client is told: 400
            assert isinstance(error, RuntimeError), error
        return time.process_time() - started

    return seconds


@pytest.mark.parametrize("name", NEAR_THE_BUDGET)
def test_what_passes_is_compiled_soon(compiled: Any, name: str) -> None:
    schema = NEAR_THE_BUDGET[name]
    assert schema_cost(schema) <= MAX_COST
    assert compiled(schema) < BOUND_SECONDS


def test_patterns_made_at_random_that_pass_are_compiled_soon(compiled: Any) -> None:
    source, tried = random.Random(3), 0
    while tried < 12:
        pattern = f"^{random_pattern(source)}{random_pattern(source)}$"
        schema = {"type": "string", "pattern": pattern}
        try:
            cost = schema_cost(schema)
        except ValueError:
            continue
        if 20 < cost <= MAX_COST:
            tried += 1
            assert compiled(schema) < BOUND_SECONDS, pattern


def random_pattern(source: random.Random, depth: int = 0) -> str:
    kind = source.random()
    if depth > 3 or kind < 0.5:
        piece = source.choice([".", r"\w", "[a-z]", "[a-zA-Z0-9_ ]", "a", r"\d", "[^,]", r"\s"])
    elif kind < 0.85:
        inside = random_pattern(source, depth + 1)
        piece = f"({inside}|{random_pattern(source, depth + 1)})" if kind > 0.75 else f"({inside})"
    else:
        return random_pattern(source, depth + 1) + random_pattern(source, depth + 1)
    counts = ["", "*", "+", "?", "{0,3}", "{1,10}", "{5}", "{1,50}", "{2,}", "{100}", "{0,300}"]
    return (piece + source.choice(counts)) * source.choice([1, 1, 1, 2, 5, 20])
