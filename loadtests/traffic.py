"""What the users of a load test ask, and which model they ask."""

import ipaddress
import random
from collections.abc import Sequence
from itertools import accumulate
from typing import Any
from urllib.parse import urlsplit

PROMPTS = (
    "Explain to a new colleague how to prepare for a week of on-call duty.",
    "Write a short story about a lighthouse keeper who finds a message in a bottle.",
    "Describe the way of a parcel from the shop to the customer, step by step.",
    "Compare bread from a bakery with bread from a supermarket.",
    "What should somebody know before adopting a dog from a shelter?",
    "Write an e-mail that moves a meeting from Tuesday to Thursday and says why.",
    "List ideas for a rainy weekend with two small children, with a sentence on each.",
    "Explain what a hash function is to somebody who has never programmed.",
    "Tell the history of the bicycle in a few paragraphs.",
    "Give advice to a student who has to speak in front of fifty people tomorrow.",
    "Describe how coffee is grown, roasted and brewed.",
    "Write a product description for a lamp that follows the daylight.",
)
NUMBER_TOKENS = 8
"""Of the number before a prompt: most tokenizers have one for each digit."""
_WORDS = tuple(sorted({word for text in PROMPTS for word in text.split() if word.isalpha()}))


class Zipf:
    """Draws names whose popularity falls with their rank: the k-th has weight 1 / k**exponent.

    With exponent 0 all are equally likely.
    """

    def __init__(self, names: Sequence[str], exponent: float) -> None:
        if not names:
            raise ValueError("there is no name to draw from")
        if exponent < 0:
            raise ValueError(f"the exponent must not be negative (got {exponent})")
        self.names = tuple(names)
        self.weights = tuple(rank**-exponent for rank in range(1, len(names) + 1))
        self._bounds = tuple(accumulate(self.weights))

    def draw(self, source: random.Random) -> str:
        """One name."""
        return source.choices(self.names, cum_weights=self._bounds)[0]


def chat_request(
    model: str,
    source: random.Random,
    *,
    max_tokens: int,
    whole: bool = False,
    prompt_tokens: int | None = None,
) -> dict[str, Any]:
    """Body of a streamed chat completion with one of the prompts, or words of about that length.

    A number before the prompt keeps a server from answering out of its prefix cache. `whole` asks
    for exactly `max_tokens`, with a field (`ignore_eos`) that vLLM and Lorikeet know.
    """
    number = f"[{source.randrange(10**6):06}]"
    if prompt_tokens is None:
        prompt = f"{number} {source.choice(PROMPTS)}"
    else:
        words = source.choices(_WORDS, k=max(1, prompt_tokens - NUMBER_TOKENS))
        prompt = f"{number} {' '.join(words)}"
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if whole:
        body["ignore_eos"] = True
    return body


def is_loopback(url: str) -> bool:
    """Whether the server at `url` is on this machine, so that nobody else gets the load."""
    host = urlsplit(url).hostname
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
