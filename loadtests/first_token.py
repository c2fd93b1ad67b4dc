"""The first token of an adapter that was never loaded, against that of a loaded one."""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
from rich.table import Table

from loadtests.chat import ask
from loadtests.servers import OURS
from loadtests.traffic import chat_request
from loadtests.verdict import Verdict, ratio

MAX_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Pair:
    """Seconds to the first token of the same prompt; None where the request failed."""

    cold: float | None
    warm: float | None


def measure_pairs(client: httpx.Client, cold: Sequence[str], warm: Sequence[str]) -> list[Pair]:
    """Ask each of `cold` once, alone, and one of `warm` the same; they take turns to be first.

    The adapters of `warm` must be loaded, and be few enough to keep their slots.
    """
    source = random.Random(0)
    pairs = []
    for number, name in enumerate(cold):
        body = chat_request(name, source, max_tokens=MAX_TOKENS, whole=True)
        other = body | {"model": warm[number % len(warm)]}
        if number % 2:
            second, first = ask(client, other).ttft, ask(client, body).ttft
        else:
            first, second = ask(client, body).ttft, ask(client, other).ttft
        pairs.append(Pair(first, second))
    return pairs


def _medians(pairs: Sequence[Pair]) -> tuple[float, float, int]:
    """Of the cold, of the warm, and how many pairs are whole."""
    whole = [(pair.cold, pair.warm) for pair in pairs if pair.cold and pair.warm]
    if not whole:
        return float("nan"), float("nan"), 0
    colds, warms = zip(*whole, strict=True)
    return statistics.median(colds), statistics.median(warms), len(whole)


def verdicts(pairs: Sequence[Pair]) -> list[Verdict]:
    """Of the medians; a request that failed keeps no promise."""
    if not pairs:
        return []
    cold, warm, whole = _medians(pairs)
    return [
        Verdict(
            f"{OURS}: first token of a cold adapter, of a warm one's",
            ratio(cold, warm),
            1.5,
            at_most=True,
        ),
        Verdict(
            f"{OURS}: failed requests beside cold adapters",
            len(pairs) - whole,
            0,
            at_most=True,
        ),
    ]


def table(pairs: Sequence[Pair]) -> Table:
    """For a terminal."""
    cold, warm, whole = _medians(pairs)
    shown = Table(title="First token of a single request (median)")
    shown.add_column("adapter")
    shown.add_column("TTFT", justify="right")
    shown.add_column("requests", justify="right")
    shown.add_row("never loaded before", f"{cold * 1000:.0f} ms", str(whole))
    shown.add_row("loaded", f"{warm * 1000:.0f} ms", str(whole))
    return shown
