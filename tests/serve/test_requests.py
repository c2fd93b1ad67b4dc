"""Which requests reach the engine, and what the others are told."""

from typing import Any

import pytest

from serve.errors import BadRequest
from serve.requests import REFUSED, ChatRequest, CompletionRequest, checked

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def chat(**fields: Any) -> dict[str, Any]:
    return checked(ChatRequest, {**CHAT, **fields}, max_output_tokens=100)


def complaint(**fields: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        chat(**fields)
    return caught.value


def test_only_what_was_set_reaches_the_engine() -> None:
    assert chat(temperature=0, seed=7) == {**CHAT, "temperature": 0, "seed": 7}


def test_bookkeeping_of_the_openai_client_is_accepted_and_dropped() -> None:
    assert chat(metadata={"a": "b"}, store=False, service_tier="auto") == CHAT


def test_a_schema_keeps_its_field_name() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    assert chat(response_format=form)["response_format"] == form


@pytest.mark.parametrize("field", sorted(REFUSED))
def test_fields_that_could_hurt_are_refused_with_the_reason(field: str) -> None:
    error = complaint(**{field: {"x": 1}})
    assert error.param == field
    assert REFUSED[field] in error.message


def test_an_unknown_field_is_named_with_its_neighbour() -> None:
    assert complaint(temprature=1).message == (
        "Unknown field `temprature`. Did you mean `temperature`?"
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 17}, "n"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 101}, "max_tokens"),
        ({"max_completion_tokens": 101}, "max_completion_tokens"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop_token_ids": [-1]}, "stop_token_ids.0"),
        ({"logit_bias": {"5": float("inf")}}, "logit_bias.5"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "root", "content": "x"}]}, "messages.0.role"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"seed": 2**63}, "seed"),
        ({"user": "x" * 513}, "user"),
    ],
)
def test_values_out_of_bounds_name_their_field(fields: dict[str, Any], param: str) -> None:
    assert complaint(**fields).param == param


def test_images_are_refused_in_words() -> None:
    parts = [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]
    error = complaint(messages=[{"role": "user", "content": parts}])
    assert error.message == "Only parts of type `text` are served."


def test_a_schema_may_not_be_nested_without_end() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(40):
        schema = {"type": "object", "properties": {"a": schema}}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    assert "nested" in complaint(tools=[tool]).message


def test_a_schema_may_not_hold_a_long_pattern() -> None:
    schema = {"type": "string", "pattern": "a" * 513}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    assert "pattern" in complaint(tools=[tool]).message


def test_the_body_must_be_an_object() -> None:
    with pytest.raises(BadRequest, match="JSON object"):
        checked(ChatRequest, [], max_output_tokens=1)


def test_the_model_is_required() -> None:
    with pytest.raises(BadRequest, match="`model` is required"):
        checked(ChatRequest, {"messages": CHAT["messages"]}, max_output_tokens=1)


@pytest.mark.parametrize("prompt", ["text", ["a", "b"], [1, 2], [[1], [2, 3]]])
def test_prompts_of_every_form(prompt: Any) -> None:
    body = checked(CompletionRequest, {"model": "m", "prompt": prompt}, max_output_tokens=1)
    assert body["prompt"] == prompt


def test_a_prompt_of_negative_tokens_is_refused() -> None:
    with pytest.raises(BadRequest) as caught:
        checked(CompletionRequest, {"model": "m", "prompt": [1, -2]}, max_output_tokens=1)
    assert caught.value.param == "prompt.1"


def test_echo_with_logprobs_is_refused() -> None:
    data = {"model": "m", "prompt": "x", "echo": True, "logprobs": 1}
    with pytest.raises(BadRequest, match="echo"):
        checked(CompletionRequest, data, max_output_tokens=1)
