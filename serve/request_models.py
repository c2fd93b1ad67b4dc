"""The fields that a client may send: OpenAI's, and vLLM's extras that cannot hurt others."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_N = 16
MAX_SEQUENCES = 64
"""Answers of one request: its prompts times `n`."""
MAX_STOP = 16
MAX_LOGIT_BIAS = 300
MAX_TOOLS = 128
INT32, INT64 = 2**31, 2**63

Text = Annotated[str, Field(max_length=2**22)]
Prompt = Annotated[str, Field(min_length=1, max_length=2**22)]
Name = Annotated[str, Field(max_length=256)]
ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
TokenId = Annotated[int, Field(ge=0, lt=INT32)]
Tokens = Annotated[list[TokenId], Field(min_length=1, max_length=2**20)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]


class _Strict(BaseModel):
    """No other field, and no other type: `"1"` and `true` are not numbers."""

    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(_Strict):
    """A part of a message; only text is served."""

    type: Literal["text"]
    text: Text


class FunctionCall(_Strict):
    """A call that the model made earlier in the conversation."""

    name: Name
    arguments: Text


class ToolCall(_Strict):
    """As in an assistant's message."""

    id: Name
    type: Literal["function"] = "function"
    function: FunctionCall
    index: Annotated[int, Field(ge=0, lt=MAX_TOOLS)] | None = None


class Message(_Strict):
    """One turn of the chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[TextPart], Field(min_length=1, max_length=256)] | None = None
    name: Name | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOLS)] | None = None
    tool_call_id: Name | None = None
    refusal: Text | None = None


class Function(_Strict):
    """A function that the model may call."""

    name: ToolName
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Strict):
    """OpenAI's tool; functions only."""

    type: Literal["function"]
    function: Function


class NamedFunction(_Strict):
    """The name in a tool choice."""

    name: ToolName


class NamedTool(_Strict):
    """The one tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(_Strict):
    """The schema of a structured answer."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: Text | None = None
    schema_: dict[str, Any] = Field(alias="schema")
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


class GenerationFields(_Strict):
    """What both endpoints take."""

    model: Annotated[str, Field(min_length=1, max_length=512)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=INT32)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    seed: Annotated[int, Field(ge=-INT64, lt=INT64)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOP)] | None = None
    logit_bias: (
        Annotated[
            dict[
                Annotated[str, Field(pattern=r"^[0-9]{1,9}$")],
                Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)],
            ],
            Field(max_length=MAX_LOGIT_BIAS),
        ]
        | None
    ) = None
    user: Annotated[str, Field(max_length=512)] | None = None
    """Who asks behind the client; of a canary, the same user always gets the same side."""
    response_format: ResponseFormat | None = None

    top_k: Annotated[int, Field(ge=-1, lt=INT32)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    # A tiny one would make finite logits infinite.
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10, allow_inf_nan=False)] | None = None
    min_tokens: Annotated[int, Field(ge=0, lt=INT32)] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = None
    bad_words: (
        Annotated[
            list[Annotated[str, Field(pattern=r"\S", max_length=64)]], Field(max_length=MAX_STOP)
        ]
        | None
    ) = None


class ChatRequest(GenerationFields):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    max_completion_tokens: Annotated[int, Field(ge=1, lt=INT32)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Field(min_length=1, max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high"] | None = None
    chat_template_kwargs: ThinkingSwitch | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    # OpenAI's bookkeeping: accepted, and of no effect here.
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
            Field(max_length=16),
        ]
        | None
    ) = Field(default=None, exclude=True)
    store: bool | None = Field(default=None, exclude=True)
    service_tier: Literal["auto", "default"] | None = Field(default=None, exclude=True)
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = Field(
        default=None, exclude=True
    )


class CompletionRequest(GenerationFields):
    """`POST /v1/completions`."""

    prompt: (
        Prompt
        | Annotated[list[Prompt], Field(min_length=1, max_length=MAX_SEQUENCES)]
        | Tokens
        | Annotated[list[Tokens], Field(min_length=1, max_length=MAX_SEQUENCES)]
    )
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    best_of: Literal[1] | None = Field(default=None, exclude=True)
