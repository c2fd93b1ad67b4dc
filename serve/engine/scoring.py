"""How likely a sequence is to vLLM: it reads the sequence as a prompt (`prompt_logprobs`).

vLLM computes every place anew, also what its prefix cache has. The logits of a chunk's places are
in memory together: that is why sequences come one at a time and are bounded (`serve.routes.score`).
"""

import math
from typing import Any

from vllm.inputs import TokensPrompt
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM

from serve.engine.protocol import ScoreRequest, SequenceScore
from serve.errors import Internal, OutputNotFinite

READ_ONLY = {
    "max_tokens": 1,
    "temperature": 0.0,
    "prompt_logprobs": 1,
    "detokenize": False,
    "output_kind": RequestOutputKind.FINAL_ONLY,
}


async def score_sequence(
    llm: AsyncLLM, request: ScoreRequest, request_id: str, sequence: tuple[int, ...]
) -> SequenceScore:
    """The score of one of the request's sequences.

    Raises: OutputNotFinite, and what vLLM raises.
    """
    adapter = request.adapter
    results = llm.generate(
        TokensPrompt(prompt_token_ids=list(sequence), cache_salt=request.cache_salt),
        SamplingParams(**READ_ONLY),
        request_id,
        lora_request=adapter and LoRARequest(adapter.name, adapter.id, str(adapter.path)),
    )
    try:
        outputs = [output async for output in results]
    finally:
        await results.aclose()
    if not outputs or outputs[-1].prompt_logprobs is None:
        raise Internal("the server had an error while it answered this request.")
    return _sequence_score(request.model, sequence, outputs[-1].prompt_logprobs)


def _sequence_score(model: str, sequence: tuple[int, ...], places: list[Any]) -> SequenceScore:
    """vLLM's figures: of each place but the first, the token that is there and the likeliest."""
    logprobs: list[float] = []
    top: list[int] = []
    for token, place in zip(sequence[1:], places[1:], strict=True):
        if not all(math.isfinite(entry.logprob) for entry in place.values()):
            raise OutputNotFinite(f"The log-probabilities of `{model}` are not finite.")
        logprobs.append(place[token].logprob)
        top.append(max(place, key=lambda each: place[each].logprob))
    return SequenceScore(tuple(logprobs), tuple(top))
