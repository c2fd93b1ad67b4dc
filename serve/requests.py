"""Which requests reach the engine.

vLLM's own models accept any field. Here every field is on a list (`serve.request_models`), of one
type and within bounds; the rest is refused with the reason, before the engine hears of it.
"""

import difflib
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from serve import json_body
from serve.errors import BadRequest
from serve.request_models import MAX_SEQUENCES, ChatRequest, CompletionRequest, GenerationFields
from serve.schemas import MAX_COST, schema_cost

__all__ = ["REFUSED", "ChatRequest", "CompletionRequest", "checked"]

MAX_PARTS = 8192
"""Messages, their parts and their tool calls, together."""

REFUSED = {
    "chat_template": "the server's chat template applies to everyone",
    "mm_processor_kwargs": "only text is served",
    "media_io_kwargs": "only text is served",
    "documents": "put the documents into the messages",
    "prompt_logprobs": "it can stop the engine when adapters are served",
    "prompt_embeds": "send text or token ids",
    "structured_outputs": "use response_format",
    "kv_transfer_params": "it belongs to the operator",
    "ec_transfer_params": "it belongs to the operator",
    "vllm_xargs": "it belongs to the operator",
    "use_beam_search": "use n and temperature",
    "return_token_ids": "use logprobs",
    "cache_salt": "the server sets it for each tenant",
    "priority": "the server sets it",
    "request_id": "the server sets it; it returns it as x-request-id",
    "suffix": "fill-in-the-middle is not served",
    "functions": "use tools",
    "function_call": "use tool_choice",
    "audio": "only text is served",
}


def checked(
    kind: type[GenerationFields],
    data: Any,
    *,
    max_output_tokens: int,
    vocabulary: int | None = None,
) -> dict[str, Any]:
    """The request's fields as the engine takes them.

    `vocabulary` is the number of token ids that the base has; None: any 31-bit id passes.
    Raises: BadRequest that names the field and says what is wrong with it.
    """
    if not isinstance(data, dict):
        raise BadRequest("The request body must be a JSON object.")
    for field, reason in REFUSED.items():
        if data.get(field) is not None:
            raise BadRequest(f"`{field}` is not accepted: {reason}.", param=field)
    try:
        request = kind.model_validate(data)
    except ValidationError as error:
        raise _bad(error, kind) from error
    _check_schemas(request)  # before the dump, which cannot take what is nested without end
    body = request.model_dump(exclude_unset=True, exclude_none=True, by_alias=True)
    for param, problem in _contradictions(body, max_output_tokens):
        raise BadRequest(f"`{param}`: {problem}.", param=param)
    if vocabulary is not None:
        _check_tokens(body, vocabulary)
    return body


def sequences(body: dict[str, Any]) -> int:
    """How many answers a checked request asks for: `n` for each of its prompts."""
    prompt = body.get("prompt")
    several = isinstance(prompt, list) and not isinstance(prompt[0], int)
    return body.get("n", 1) * (len(prompt) if several else 1)  # type: ignore[no-any-return, arg-type]


def _check_schemas(request: GenerationFields) -> None:
    """Each schema is one that the engine can compile, and all of them soon."""
    schemas: dict[str, Any] = {}
    if request.response_format is not None and request.response_format.json_schema is not None:
        schemas["response_format.json_schema.schema"] = request.response_format.json_schema.schema_
    if isinstance(request, ChatRequest):
        for index, tool in enumerate(request.tools or ()):
            param, parameters = f"tools.{index}.function.parameters", tool.function.parameters
            if parameters and parameters.get("type", "object") != "object":
                raise BadRequest(f"`{param}` must be of type `object`.", param=param)
            schemas[param] = parameters or {}
    total = 0.0
    for param, schema in schemas.items():
        try:
            total += schema_cost(schema)
        except ValueError as error:
            raise BadRequest(f"`{param}`: {error}.", param=param) from error
        if total > MAX_COST:
            raise BadRequest(
                f"`{param}` makes the request's schemas too costly: use fewer properties, fewer "
                "different `maxLength`s, and smaller repetitions in patterns.",
                param=param,
            )


def _contradictions(body: dict[str, Any], max_output_tokens: int) -> Iterator[tuple[str, str]]:
    """What each field allows, and all of them together do not: the field and the problem."""
    for field in ("max_tokens", "max_completion_tokens", "min_tokens"):
        if body.get(field, 0) > max_output_tokens:
            yield field, f"it is over this server's bound of {max_output_tokens}"
    most = body.get("max_completion_tokens", body.get("max_tokens", max_output_tokens))
    if body.get("min_tokens", 0) > most:
        yield "min_tokens", "it is over the most tokens asked for"
    if body.get("echo") and body.get("logprobs") is not None:
        yield "echo", "it cannot be combined with `logprobs`"
    if body.get("stream_options") and not body.get("stream"):
        yield "stream_options", "it needs `stream: true`"
    if body.get("top_logprobs") and not body.get("logprobs"):
        yield "top_logprobs", "it needs `logprobs: true`"
    if body.get("add_generation_prompt") and body.get("continue_final_message"):
        yield "continue_final_message", "it cannot be combined with `add_generation_prompt`"
    if sequences(body) > MAX_SEQUENCES:
        yield "n", f"times the prompts it is over {MAX_SEQUENCES}"
    form = body.get("response_format", {})
    if (form.get("type") == "json_schema") != ("json_schema" in form):
        yield "response_format", "`type: json_schema` and `json_schema` go together"
    yield from _tool_contradictions(body)
    yield from _message_contradictions(body.get("messages", []))


def _tool_contradictions(body: dict[str, Any]) -> Iterator[tuple[str, str]]:
    names = [tool["function"]["name"] for tool in body.get("tools", [])]
    if len(set(names)) < len(names):
        yield "tools", "two of them have the same name"
    choice = body.get("tool_choice", "none")
    if choice != "none" and not names:
        yield "tool_choice", "it needs `tools`"
    if isinstance(choice, dict) and choice["function"]["name"] not in names:
        yield "tool_choice", "it names a tool that is not among `tools`"


def _message_contradictions(messages: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    parts = 0
    for index, message in enumerate(messages):
        content, calls = message.get("content"), message.get("tool_calls", [])
        parts += 1 + len(calls) + (len(content) if isinstance(content, list) else 0)
        if content is None and message["role"] != "assistant":
            yield f"messages.{index}.content", "it is required"
        for call in calls:
            if json_body.deeper_than(call["function"]["arguments"], json_body.MAX_DEPTH):
                yield f"messages.{index}.tool_calls", "arguments are nested too deep"
    if parts > MAX_PARTS:
        yield "messages", f"with their parts and tool calls they are over {MAX_PARTS}"


def _check_tokens(body: dict[str, Any], vocabulary: int) -> None:
    """Every token id is one of the base's."""
    prompt = body.get("prompt")
    lists = [prompt] if isinstance(prompt, list) and isinstance(prompt[0], int) else prompt
    found = {
        "prompt": [i for ids in lists for i in ids if isinstance(i, int)]
        if isinstance(lists, list)
        else [],
        "stop_token_ids": body.get("stop_token_ids", []),
        "logit_bias": map(int, body.get("logit_bias", ())),
    }
    for param, ids in found.items():
        if max(ids, default=0) >= vocabulary:
            raise BadRequest(
                f"`{param}` has a token id that is not below {vocabulary}, the size of the "
                "model's vocabulary.",
                param=param,
            )


def _bad(error: ValidationError, kind: type[BaseModel]) -> BadRequest:
    """The first problem in words, with its place."""
    detail: ErrorDetails = min(error.errors(include_url=False, include_input=False), key=_rank)
    unknown, place = detail["type"] == "extra_forbidden", detail["loc"]
    path = [str(part)[:64] for part in place[:-1] if not _branch(part)]
    path += [str(part)[:64] for part in place[-1:] if unknown or not _branch(part)]
    param = ".".join(path)
    if unknown:
        near = difflib.get_close_matches(path[-1], kind.model_fields, n=1)
        hint = f" Did you mean `{near[0]}`?" if near and len(path) == 1 else ""
        return BadRequest(f"Unknown field `{param}`.{hint}", param=param)
    if detail["type"] == "missing":
        return BadRequest(f"`{param}` is required.", param=param)
    if param.endswith(".type") and param.startswith("messages."):
        return BadRequest("Only parts of type `text` are served.", param=param)
    return BadRequest(f"`{param}`: {detail['msg'].removeprefix('Value error, ')}.", param=param)


def _rank(detail: ErrorDetails) -> tuple[int, int]:
    """Of a union's many complaints the one that a person would make, first."""
    kind, place = detail["type"], detail["loc"]
    if kind == "literal_error" and place[-1] == "type":
        return (0, 0)
    if kind == "extra_forbidden":
        return (1, len(place))
    return (3 if kind.endswith("_type") else 2, -len(place))


def _branch(part: int | str) -> bool:
    """Whether a part of the place is pydantic's name of a union's branch, not a field."""
    return isinstance(part, str) and not part.replace("_", "").isalnum()
