"""What one server's work takes: the times that the simulation is made of."""

import statistics
from collections.abc import Sequence

from loadtests.player import Heard, in_turn, play
from loadtests.simulation.replica import Capacity
from loadtests.simulation.timing import Measured, Step
from loadtests.simulation.trace import Request
from registry import LorikeetError

ANSWER_TOKENS = 32
REPEATS = 12
SHORT, LONG = 48, 400
"""Tokens of two prompts; what the longer one takes more is the prompt's share."""
TRAFFIC, TRAFFIC_RATE = 40, 2.5
"""Requests, and requests a second, for the way to the engine and back."""


async def probe(url: str, adapters: Sequence[str], capacity: Capacity) -> Measured:
    """Measure a server that has loaded nothing yet, and that nobody else asks.

    Raises: LorikeetError where it does not answer.
    """
    cold_names, warm_name = adapters[:REPEATS], adapters[0]
    cold = await _first_tokens(url, cold_names, SHORT)
    warm = await _first_tokens(url, [warm_name] * REPEATS, SHORT)
    long = await _first_tokens(url, [warm_name] * REPEATS, LONG)
    steps = []
    batch = 1
    while batch <= capacity.max_num_seqs:
        for several in sorted({1, min(batch, capacity.max_loras, len(adapters))}):
            names = [adapters[number % several] for number in range(batch)]
            steps.append(Step(batch=batch, adapters=several, seconds=await _step(url, names)))
        batch *= 2
    prompt = max(0.0, (long - warm) / (LONG - SHORT))
    busy = await _first_tokens_in_traffic(url, adapters[: capacity.max_loras])
    return Measured(
        steps=tuple(steps),
        cold_load_seconds=max(0.0, cold - warm),
        prompt_token_seconds=prompt,
        overhead_seconds=max(0.0, busy - steps[0].seconds - SHORT * prompt),
    )


async def _first_tokens(url: str, names: Sequence[str], prompt: int) -> float:
    """Median seconds to the first token, one request after another."""
    heard = _good(await in_turn(url, [Request(0.0, name, prompt, 4) for name in names]))
    return statistics.median(answer.first_token for answer in heard)


async def _first_tokens_in_traffic(url: str, names: Sequence[str]) -> float:
    """The same of loaded adapters, but with other requests on their way at the same time."""
    trace = [
        Request(number / TRAFFIC_RATE, names[number % len(names)], SHORT, ANSWER_TOKENS // 2)
        for number in range(TRAFFIC)
    ]
    heard = _good(await play(url, trace))
    return statistics.median(answer.first_token - answer.request.at for answer in heard)


async def _step(url: str, names: Sequence[str]) -> float:
    """Median seconds between two tokens of requests that run at the same time."""
    answers = _good(await play(url, [Request(0.0, name, SHORT, ANSWER_TOKENS) for name in names]))
    return statistics.median(map(_gap, answers))


def _good(heard: Sequence[Heard]) -> Sequence[Heard]:
    """All of them: the times of one that failed are no times. Raises: LorikeetError."""
    failed = sum(not answer.tokens for answer in heard)
    if failed:
        raise LorikeetError(
            f"{failed} of {len(heard)} requests that measure the server were not answered",
            remedy="see with `lorikeet serve` and `lorikeet ask` that it answers, then measure "
            "while nobody else asks it",
        )
    return heard


def _gap(heard: Heard) -> float:
    return (heard.ended - heard.first_token) / max(1, heard.tokens - 1)
