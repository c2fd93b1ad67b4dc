"""Trained, published, served: the openai client against the real engine."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI
from prometheus_client.parser import text_string_to_metric_families

from registry import DEFAULT_BASE, Base, Registry, RegistrySettings

TOLERANCE = 1e-4
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def ask(client: OpenAI, model: str, text: str, **options: Any) -> Any:
    return client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": text}],
        **{"temperature": 0, "max_tokens": 40, **options},
    )


def test_the_adapter_answers_what_it_was_trained_on_and_the_base_does_not(
    client: OpenAI, trained: str, questions: list[tuple[str, str]]
) -> None:
    def right(model: str) -> int:
        with ThreadPoolExecutor(len(questions)) as pool:
            answers = pool.map(lambda pair: ask(client, model, pair[0]), questions)
            said = [answer.choices[0].message.content.strip() for answer in answers]
        return sum(a == expected for a, (_, expected) in zip(said, questions, strict=True))

    assert right(trained) >= 5
    assert right(DEFAULT_BASE) == 0


def test_models_are_listed_with_parent_and_root_and_no_path(
    client: OpenAI, trained: str, e2e_home: Path, server: str
) -> None:
    cards = {card.id: card for card in client.models.list()}
    assert {DEFAULT_BASE, trained, f"{trained}@1"} <= cards.keys()
    card: Any = cards[trained]
    assert (card.parent, card.root) == (DEFAULT_BASE, f"{trained}@1")
    assert str(e2e_home) not in httpx.get(f"{server}/v1/models").text
    assert client.models.retrieve(f"{trained}@latest").id == f"{trained}@latest"


def test_a_stream_is_the_whole_answer_in_pieces_with_usage(client: OpenAI, trained: str) -> None:
    question = "What does OPL stand for in the OPL programming language?"
    whole = ask(client, trained, question)
    chunks = list(
        ask(client, trained, question, stream=True, stream_options={"include_usage": True})
    )
    pieces = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len([piece for piece in pieces if piece]) > 3
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert {chunk.model for chunk in chunks} == {f"{trained}@1"} == {whole.model}


def test_text_completion_stop_and_seed(client: OpenAI) -> None:
    options: Any = {"model": DEFAULT_BASE, "prompt": "1, 2, 3, 4,", "max_tokens": 12, "seed": 3}
    first = client.completions.create(**options, temperature=1)
    assert client.completions.create(**options, temperature=1).choices[0].text == (
        first.choices[0].text
    )
    stopped = client.completions.create(**options | {"stop": [","]}, temperature=0)
    assert "," not in stopped.choices[0].text
    assert stopped.choices[0].finish_reason == "stop"


def test_a_required_tool_is_called_with_arguments_of_its_schema(
    client: OpenAI, trained: str
) -> None:
    for model in (DEFAULT_BASE, trained):
        answer = ask(
            client,
            model,
            "Weather in Paris?",
            tools=[WEATHER],
            tool_choice="required",
            max_tokens=100,
        )
        (call,) = answer.choices[0].message.tool_calls
        assert call.function.name == "get_weather"
        assert isinstance(json.loads(call.function.arguments)["city"], str)


def test_tools_may_be_left_alone(client: OpenAI) -> None:
    answer = ask(client, DEFAULT_BASE, "Say hi.", tools=[WEATHER])
    assert answer.choices[0].finish_reason in ("stop", "length", "tool_calls")


def test_an_answer_of_a_json_schema(client: OpenAI, trained: str) -> None:
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["age"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    for model in (DEFAULT_BASE, trained):
        answer = ask(client, model, "A person of 30.", response_format=form, max_tokens=200)
        assert 0 <= json.loads(answer.choices[0].message.content)["age"] <= 99


def test_log_probabilities(client: OpenAI, trained: str) -> None:
    answer = ask(client, trained, "Who created OPL?", logprobs=True, top_logprobs=3, max_tokens=4)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == 4
    for token in tokens:
        assert token.logprob <= 0
        assert token.top_logprobs[0].logprob == pytest.approx(token.logprob, abs=1e-6)


def test_errors_come_as_the_clients_own_exceptions(client: OpenAI) -> None:
    with pytest.raises(NotFoundError) as unknown:
        ask(client, "nobody", "hi")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(BadRequestError) as long:
        ask(client, DEFAULT_BASE, "word " * 9000)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(BadRequestError) as streamed:
        ask(client, DEFAULT_BASE, "word " * 9000, stream=True)
    assert streamed.value.code == "context_length_exceeded"


def _fingerprint(answer: Any) -> tuple[list[str], list[float]]:
    tokens = answer.choices[0].logprobs.content
    return [token.token for token in tokens], [token.logprob for token in tokens]


def test_nobody_is_changed_by_who_else_is_in_the_batch(
    server: str, client: OpenAI, trained: str, random_adapters: list[str]
) -> None:
    """Base and four adapters, alone and then all at once: token for token, 1e-4 in log-probability.

    Stock vLLM's CPU product fails this: base tokens get the last slot's adapter.
    """
    prompts = ["Who created the OPL programming language?", "Tell me about the sea.", "Why?"]
    cases = [(m, p) for p in prompts for m in (DEFAULT_BASE, trained, *random_adapters)]
    options: Any = {"logprobs": True, "max_tokens": 12, "extra_body": {"ignore_eos": True}}
    alone = [_fingerprint(ask(client, model, prompt, **options)) for model, prompt in cases]
    assert len({tuple(tokens) for tokens, _ in alone[:5]}) == 5, "the adapters change nothing"

    async def together() -> list[Any]:
        async with AsyncOpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as asking:
            return await asyncio.gather(
                *(
                    asking.chat.completions.create(
                        model=model,
                        messages=[{"role": "user", "content": prompt}],
                        temperature=0,
                        **options,
                    )
                    for model, prompt in cases
                )
            )

    for case, before, answer in zip(cases, alone, asyncio.run(together()), strict=True):
        tokens, logprobs = _fingerprint(answer)
        assert tokens == before[0], case
        assert logprobs == pytest.approx(before[1], abs=TOLERANCE), case


def test_published_while_the_server_runs(
    client: OpenAI, e2e_home: Path, embedded_base: Base, make_adapter: Any, tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError):
        ask(client, "late", "hi")
    folder = make_adapter(tmp_path / "late", embedded_base, seed=11, scale=0.05)
    with Registry.open(RegistrySettings(home=e2e_home)) as registry:
        registry.publish(folder, "late", base=embedded_base, origin="test")
        first = ask(client, "late", "Tell me about the sea.")
        assert first.model == "late@1"
        folder = make_adapter(tmp_path / "later", embedded_base, seed=12, scale=0.05)
        registry.publish(folder, "late", base=embedded_base, origin="test")
    second = ask(client, "late", "Tell me about the sea.")
    assert second.model == "late@2"
    assert second.choices[0].message.content != first.choices[0].message.content
    again = ask(client, "late@1", "Tell me about the sea.")
    assert again.choices[0].message.content == first.choices[0].message.content


def test_metrics_of_ours_and_of_vllm_agree(client: OpenAI, server: str) -> None:
    ask(client, DEFAULT_BASE, "Count me.")
    ask(client, "random-0", "Count me.")
    totals: dict[str, float] = {}
    combinations = []
    for family in text_string_to_metric_families(httpx.get(f"{server}/metrics").text):
        for sample in family.samples:
            totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
            if sample.name == "vllm:lora_requests_info":
                combinations.append(sample.labels)
    assert totals["lorikeet_output_tokens_total"] == totals["vllm:generation_tokens_total"] > 0
    assert totals["lorikeet_prompt_tokens_total"] == totals["vllm:prompt_tokens_total"] > 0
    assert totals["lorikeet_engine_up"] == 1
    assert len(combinations) == 1  # of many: the newest, which those who route by it read
    assert combinations[0].keys() == {"max_lora", "running_lora_adapters", "waiting_lora_adapters"}
    assert "+" not in combinations[0]["running_lora_adapters"]
