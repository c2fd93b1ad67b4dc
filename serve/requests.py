"""What a client may ask: OpenAI's fields, and vLLM's sampling extras that cannot hurt others.

vLLM's own models accept any field. Here every field is on a list and within bounds; the rest is
refused with the reason, before the engine hears of it.
"""

import difflib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError
from pydantic_core import ErrorDetails

from serve.errors import BadRequest

MAX_N = 16
MAX_STOP = 16
MAX_LOGIT_BIAS = 300
MAX_TOOLS = 128
MAX_SCHEMA_DEPTH = 32
MAX_SCHEMA_NODES = 4096
MAX_PATTERN = 512
INT64 = 2**63

REFUSED = {
    "chat_template": "the server's chat template applies to everyone",
    "mm_processor_kwargs": "only text is served",
    "media_io_kwargs": "only text is served",
    "documents": "put the documents into the messages",
    "prompt_logprobs": "it can stop the engine when adapters are served",
    "prompt_embeds": "send text or token ids",
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

Text = Annotated[str, Field(max_length=2**22)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]


def _bounded_schema(schema: Any) -> Any:
    """Refuse a JSON schema that is too deep, too large, or holds a long regular expression."""
    nodes, stack = 0, [(schema, 1)]
    while stack:
        node, depth = stack.pop()
        nodes += 1
        if depth > MAX_SCHEMA_DEPTH or nodes > MAX_SCHEMA_NODES:
            raise ValueError(
                f"the schema is nested over {MAX_SCHEMA_DEPTH} levels or has over "
                f"{MAX_SCHEMA_NODES} parts"
            )
        if isinstance(node, dict):
            pattern = node.get("pattern")
            if isinstance(pattern, str) and len(pattern) > MAX_PATTERN:
                raise ValueError(f"a pattern has over {MAX_PATTERN} characters")
            stack += [(child, depth + 1) for child in node.values()]
        elif isinstance(node, list):
            stack += [(child, depth + 1) for child in node]
    return schema


Schema = Annotated[dict[str, Any], BeforeValidator(_bounded_schema)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=False)


class TextPart(_Strict):
    """A part of a message; only text is served."""

    type: Literal["text"]
    text: Text


class FunctionCall(_Strict):
    """A call that the model made earlier in the conversation."""

    name: Annotated[str, Field(max_length=256)]
    arguments: Text


class ToolCall(_Strict):
    """As in an assistant's message."""

    id: Annotated[str, Field(max_length=256)]
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = None


class Message(_Strict):
    """One turn of the chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[TextPart], Field(max_length=256)] | None = None
    name: Annotated[str, Field(max_length=256)] | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOLS)] | None = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None
    refusal: Text | None = None


class Function(_Strict):
    """A function that the model may call."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
    description: Text | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class Tool(_Strict):
    """OpenAI's tool; functions only."""

    type: Literal["function"]
    function: Function


class NamedFunction(_Strict):
    """The name in a tool choice."""

    name: Annotated[str, Field(max_length=128)]


class NamedTool(_Strict):
    """The one tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(_Strict):
    """The schema of a structured answer."""

    name: Annotated[str, Field(max_length=128)]
    description: Text | None = None
    schema_: Schema | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(_Strict):
    """text, json_object or json_schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(_Strict):
    """What the stream carries beside the text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = Field(default=None, exclude=True)


class ThinkingSwitch(_Strict):
    """The one template argument that clients may set."""

    enable_thinking: bool


class _Sampling(_Strict):
    """What both endpoints take."""

    model: Annotated[str, Field(min_length=1, max_length=512)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    seed: Annotated[int, Field(ge=-INT64, lt=INT64)] | None = None
    stop: (
        Annotated[str, Field(max_length=256)]
        | Annotated[
            list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=MAX_STOP)
        ]
        | None
    ) = None
    logit_bias: (
        Annotated[
            dict[
                Annotated[str, Field(pattern=r"^\d{1,9}$")],
                Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)],
            ],
            Field(max_length=MAX_LOGIT_BIAS),
        ]
        | None
    ) = None
    user: Annotated[str, Field(max_length=512)] | None = None
    response_format: ResponseFormat | None = None

    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = None
    bad_words: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=MAX_STOP)
        ]
        | None
    ) = None


class ChatRequest(_Sampling):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high"] | None = None
    chat_template_kwargs: ThinkingSwitch | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    # OpenAI's bookkeeping: accepted, and of no effect here.
    metadata: dict[str, JsonValue] | None = Field(default=None, exclude=True)
    store: bool | None = Field(default=None, exclude=True)
    service_tier: Literal["auto", "default"] | None = Field(default=None, exclude=True)
    modalities: list[Literal["text"]] | None = Field(default=None, exclude=True)


class CompletionRequest(_Sampling):
    """`POST /v1/completions`."""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=64)]
        | Annotated[list[TokenId], Field(min_length=1, max_length=2**20)]
        | Annotated[
            list[Annotated[list[TokenId], Field(min_length=1, max_length=2**20)]],
            Field(min_length=1, max_length=64),
        ]
    )
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    best_of: Literal[1] | None = Field(default=None, exclude=True)


def checked(kind: type[_Sampling], data: Any, *, max_output_tokens: int) -> dict[str, Any]:
    """The request's fields as the engine takes them.

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
    body = request.model_dump(exclude_unset=True, exclude_none=True, by_alias=True)
    for field in ("max_tokens", "max_completion_tokens"):
        if body.get(field, 0) > max_output_tokens:
            raise BadRequest(
                f"`{field}` is over this server's bound of {max_output_tokens}.", param=field
            )
    if body.get("echo") and body.get("logprobs") is not None:
        raise BadRequest("`echo` cannot be combined with `logprobs`.", param="echo")
    if body.get("stream_options") and not body.get("stream"):
        raise BadRequest("`stream_options` needs `stream: true`.", param="stream_options")
    return body


def _bad(error: ValidationError, kind: type[BaseModel]) -> BadRequest:
    """The first problem in words, with its place."""
    detail: ErrorDetails = min(error.errors(), key=_rank)
    path = [str(part) for part in detail["loc"] if not _branch(part)]
    param = ".".join(path)
    if detail["type"] == "extra_forbidden":
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
