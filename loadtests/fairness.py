"""What a quiet tenant gets beside a noisy one, and how two busy tenants share the server.

Each tenant is a Locust process with an API key of its own; a server without keys ignores it.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Table

from loadtests.answer import Answer
from loadtests.servers import OURS, STOCK
from loadtests.swarm import DRAIN_SECONDS, Crowd, Swarm
from loadtests.verdict import Verdict, ratio

SETTLE_SECONDS = 10
"""From the start of a crowd until its queue is what it will be; not measured."""
PATIENCE_SECONDS = 60
"""How long after its time the quiet tenant may wait until the noise beside it ends."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """A crowd, and the locustfile's options that say whom it asks."""

    crowd: Crowd
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Quiet:
    """What a server gave the quiet tenant beside the noisy one.

    A request that the noise kept waiting to its end counts with the wait that it had by then.
    """

    server: str
    ttfts: tuple[float, ...]
    failures: int
    noisy_answers: int
    noisy_failures: int


@dataclass(frozen=True, slots=True)
class Shares:
    """Output tokens of two tenants that always had work, in the same time."""

    server: str
    many: float
    few: float
    failures: int

    @property
    def of_few(self) -> float:
        """The part of the tenant with fewer connections."""
        return ratio(self.few, self.many + self.few)


def measure_quiet(server: str, url: str, noisy: Tenant, quiet: Tenant, records: Path) -> Quiet:
    """Ask as the quiet tenant while the noisy one keeps its requests open.

    Bounded: where the quiet tenant has waited PATIENCE_SECONDS longer than its run was to last,
    the noise ends, so that what still waits is answered.
    """
    seconds = quiet.crowd.seconds + PATIENCE_SECONDS
    endless = replace(noisy.crowd, seconds=2 * (SETTLE_SECONDS + seconds), drain_seconds=1)
    waits = replace(quiet.crowd, drain_seconds=PATIENCE_SECONDS + DRAIN_SECONDS)
    with Swarm(endless, url, noisy.models, records / "noisy.jsonl") as noise:
        noise.wait(SETTLE_SECONDS)
        with Swarm(waits, url, quiet.models, records / "quiet.jsonl") as swarm:
            swarm.wait(seconds)
            noise.stop()
            answers = swarm.join()
        noisy_answers = noise.join()
    return quiet_of(server, answers, noisy_answers)


def quiet_of(server: str, quiet: Sequence[Answer], noisy: Sequence[Answer]) -> Quiet:
    """From the answers of both."""
    good = [answer for answer in quiet if answer.error is None and answer.arrivals]
    return Quiet(
        server,
        tuple(answer.arrivals[0] - answer.started for answer in good),
        len(quiet) - len(good),
        len(noisy),
        sum(answer.error is not None for answer in noisy),
    )


def measure_shares(server: str, url: str, many: Tenant, few: Tenant, records: Path) -> Shares:
    """Let both tenants ask at once, each with more requests than there is room for its half."""
    seconds = SETTLE_SECONDS + few.crowd.seconds
    crowds = [replace(tenant.crowd, seconds=seconds) for tenant in (many, few)]
    with (
        Swarm(crowds[0], url, many.models, records / "many.jsonl") as first,
        Swarm(crowds[1], url, few.models, records / "few.jsonl") as second,
    ):
        return shares_of(server, first.join(), second.join(), seconds)


def shares_of(server: str, many: Sequence[Answer], few: Sequence[Answer], seconds: float) -> Shares:
    """Tokens that came while both had asked for SETTLE_SECONDS and neither had stopped."""
    starts = [min((a.started for a in answers), default=math.inf) for answers in (many, few)]
    begin, end = max(starts) + SETTLE_SECONDS, min(starts) + seconds
    tokens = [sum(a.tokens_between(begin, end) for a in answers) for answers in (many, few)]
    failures = sum(answer.error is not None for answer in [*many, *few])
    return Shares(server, tokens[0], tokens[1], failures)


def verdicts(quiets: Sequence[Quiet], shares: Sequence[Shares]) -> list[Verdict]:
    """What the measured servers allow to judge."""
    judged = []
    medians = {quiet.server: _median(quiet.ttfts) for quiet in quiets}
    if OURS in medians and STOCK in medians:
        promise = f"quiet tenant beside a noisy one: median TTFT of {STOCK}'s"
        share = ratio(medians[OURS], medians[STOCK])
        judged.append(Verdict(promise, share, 0.25, at_most=True))
    for quiet in quiets:
        if quiet.server == OURS:
            promise = f"{OURS}: failed requests of the quiet tenant"
            judged.append(Verdict(promise, quiet.failures, 0, at_most=True))
    for shared in shares:
        promise = f"{shared.server}: two busy tenants, distance of their shares from 50:50"
        judged.append(Verdict(promise, abs(shared.of_few / 0.5 - 1), 0.1, at_most=True))
    return judged


def table(quiets: Sequence[Quiet], shares: Sequence[Shares]) -> Table:
    """For a terminal."""
    shown = Table(title="Two tenants on one server")
    for heading in ("server", "tenants", "figure", "measured"):
        shown.add_column(heading, justify="right" if heading == "measured" else "left")
    for quiet in quiets:
        shown.add_row(
            quiet.server,
            f"quiet ({len(quiet.ttfts)} answers) beside noisy ({quiet.noisy_answers})",
            "quiet's median TTFT",
            f"{_median(quiet.ttfts):.2f} s",
        )
    for shared in shares:
        shown.add_row(
            shared.server,
            "many connections, few connections",
            "output tokens",
            f"{1 - shared.of_few:.0%} : {shared.of_few:.0%}",
        )
    return shown


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan
