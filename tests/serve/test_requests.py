"""Which requests reach the engine, and what the others are told."""

from typing import Any

import pytest

from serve.errors import BadRequest
from serve.requests import REFUSED, ChatRequest, CompletionRequest, checked

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f"}}
SCHEMA: dict[str, Any] = {"name": "a", "schema": {"type": "object"}}


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


@pytest.mark.parametrize("field", ["", "!", "a[b]", "é-"])
def test_an_unknown_field_may_have_any_name(field: str) -> None:
    error = complaint(**{field: None})
    assert (error.message, error.param) == (f"Unknown field `{field}`.", field)
    nested = complaint(messages=[{"role": "user", "content": "hi", field: 1}])
    assert nested.param == f"messages.0.{field}"


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
        ({"stop": ""}, "stop"),
        ({"stop": [""]}, "stop.0"),
        ({"bad_words": [" "]}, "bad_words.0"),
        ({"logit_bias": {"-5": 1}}, "logit_bias"),
        ({"logit_bias": {str(i): 1 for i in range(301)}}, "logit_bias"),
        ({"repetition_penalty": 1e-30}, "repetition_penalty"),
        ({"frequency_penalty": 2.5}, "frequency_penalty"),
        ({"top_k": -2}, "top_k"),
        ({"min_tokens": 101}, "min_tokens"),
        ({"min_tokens": 6, "max_tokens": 5}, "min_tokens"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"metadata": {"a": {"b": 1}}}, "metadata.a"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages.0.content"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs.tokenize"),
        (
            {"add_generation_prompt": True, "continue_final_message": True},
            "continue_final_message",
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "text", "json_schema": SCHEMA}}, "response_format"),
        ({"response_format": {"type": "grammar"}}, "response_format.type"),
        ({"tools": []}, "tools"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [TOOL | {"type": "retrieval"}]}, "tools.0.type"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": "any", "tools": [TOOL]}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
    ],
)
def test_values_out_of_bounds_name_their_field(fields: dict[str, Any], param: str) -> None:
    assert complaint(**fields).param == param


@pytest.mark.parametrize(
    "fields",
    [
        {"n": "1"},
        {"n": True},
        {"n": 1.0},
        {"max_tokens": "5"},
        {"temperature": "0.5"},
        {"temperature": False},
        {"stream": "yes"},
        {"stream": 1},
        {"seed": 1.5},
        {"stop_token_ids": ["5"]},
        {"logit_bias": {"5": "1"}},
        {"messages": "hi"},
        {"messages": {"role": "user", "content": "hi"}},
        {"messages": [{"role": "user", "content": 5}]},
        {"tools": {"type": "function"}},
    ],
)
def test_no_type_stands_for_another(fields: dict[str, Any]) -> None:
    (field,) = fields
    assert (complaint(**fields).param or "").startswith(field)


def test_a_whole_number_may_stand_for_any_number() -> None:
    assert chat(temperature=1, logit_bias={"5": -100})["temperature"] == 1


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
    schema = {"properties": {"a": {"type": "string", "pattern": "a" * 513}}}
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


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": [1, 50]}, "prompt"),
        ({"prompt": [[1], [2, 50]]}, "prompt"),
        ({"prompt": "x", "stop_token_ids": [50]}, "stop_token_ids"),
        ({"prompt": "x", "logit_bias": {"50": 1}}, "logit_bias"),
    ],
)
def test_token_ids_are_below_the_size_of_the_vocabulary(fields: dict[str, Any], param: str) -> None:
    data = {"model": "m"} | fields
    with pytest.raises(BadRequest, match="not below 50") as caught:
        checked(CompletionRequest, data, max_output_tokens=1, vocabulary=50)
    assert caught.value.param == param
    checked(CompletionRequest, data, max_output_tokens=1, vocabulary=51)


@pytest.mark.parametrize("prompt", ["", [], [""], [[]], [[1], []], ["a", 1], [1.0], ["a"] * 65])
def test_prompts_that_are_none(prompt: Any) -> None:
    with pytest.raises(BadRequest):
        checked(CompletionRequest, {"model": "m", "prompt": prompt}, max_output_tokens=1)


def test_prompts_times_answers_are_bounded() -> None:
    data = {"model": "m", "prompt": ["a"] * 32, "n": 3}
    with pytest.raises(BadRequest, match="over 64"):
        checked(CompletionRequest, data, max_output_tokens=1)
    assert checked(CompletionRequest, data | {"n": 2}, max_output_tokens=1)


def test_parts_of_a_conversation_are_bounded_together() -> None:
    parts = [{"type": "text", "text": "x"}] * 200
    message = {"role": "user", "content": parts}
    assert "over 8192" in complaint(messages=[message] * 50).message
    assert chat(messages=[message] * 40)


def test_earlier_calls_of_the_model_are_bounded() -> None:
    def earlier(arguments: str) -> dict[str, Any]:
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
        return {"role": "assistant", "content": None, "tool_calls": [call]}

    assert chat(messages=[*CHAT["messages"], earlier('{"a": [1]}'), earlier("not json")])
    assert "too deep" in complaint(messages=[earlier("[" * 1000)]).message


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"type": "array"}, "must be of type `object`"),
        ({"properties": {"a": {"type": "text"}}}, "`type` must be one of"),
        ({"properties": {"a": {"$ref": "http://x/"}}}, "`$ref` must point into"),
        ({"properties": {"a": {"pattern": "(a{1,99}){1,99}"}}}, "too costly"),
    ],
)
def test_a_tool_with_a_bad_schema_is_named(parameters: dict[str, Any], problem: str) -> None:
    bad = {"type": "function", "function": {"name": "bad", "parameters": parameters}}
    error = complaint(tools=[TOOL, bad])
    assert error.param == "tools.1.function.parameters"
    assert problem in error.message


def test_the_schemas_of_a_request_share_one_budget() -> None:
    def tool(index: int) -> dict[str, Any]:
        text = {"type": "string", "maxLength": 100 + index}
        function = {"name": f"f{index}", "parameters": {"properties": {"a": text}}}
        return {"type": "function", "function": function}

    assert chat(tools=[tool(0)])
    error = complaint(tools=[tool(0), tool(1)])
    assert error.param == "tools.1.function.parameters"
    assert "too costly" in error.message


def test_a_tool_that_is_there_can_be_chosen() -> None:
    choice = {"type": "function", "function": {"name": "f"}}
    for chosen in ("none", "auto", "required", choice):
        assert chat(tools=[TOOL], tool_choice=chosen)["tool_choice"] == chosen


def test_a_message_does_not_repeat_what_was_sent_without_end() -> None:
    assert len(complaint(**{"x" * 10_000: 1}).message) < 200
