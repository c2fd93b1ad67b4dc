"""The certificate: a served adapter gives the log-probabilities that the trained one does.

Three questions, on held-out rows that are read token by token (teacher-forced):

- Is what is served what was trained? The served log-probabilities against those that PEFT computes
  with the adapter on the base as it is served.
- Is the adapter applied at all? Served with and without it, they have to differ.
- What does serving it on another base than it was trained on cost? The held-out loss on the
  quantised base, on the unquantised one and merged into the weights it was trained on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from registry import Version
from train.data.masking import Encoded
from train.handoff.agreement import TOLERANCES, Agreement, Tolerance, compare_scores
from train.handoff.score_server import ServedScores
from train.handoff.token_scores import TokenScores, mean_loss

Scores = Sequence[TokenScores]
Trained = Callable[[], Scores]
"""Loads a model, scores all rows with it, and gives its memory back."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a server said of the rows, with the adapter and by the base alone."""

    adapter: ServedScores
    base: ServedScores

    @property
    def dtype(self) -> str:
        """Of the served weights."""
        return self.adapter.engine["dtype"]

    @property
    def quantization(self) -> str:
        """Of the served base: none or nf4."""
        return self.adapter.engine["quantization"]


@dataclass(frozen=True, slots=True)
class Reference:
    """What PEFT says of the rows.

    `as_served` is the adapter on the base as it is served, `trained` as it was trained;
    `quantization` is that of training. `unquantised` and `merged` are the other two ways.
    """

    as_served: Scores
    trained: Scores
    unquantised: Scores
    merged: Scores | None
    quantization: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """The figures, and `problems`: why it has not passed; none where it has."""

    dtype: str
    tolerance: Tolerance
    rows: int
    agreement: Agreement
    trained: Agreement
    effect: float
    losses: dict[str, float]
    engine: dict[str, str]
    at: datetime
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON values, for the manifest; `registry.gate` reads `passed`."""
        return {
            "passed": self.passed,
            "problems": list(self.problems),
            "dtype": self.dtype,
            "tolerance": self.tolerance.as_dict(),
            "rows": self.rows,
            "tokens": self.agreement.tokens,
            "max_difference": _rounded(self.agreement.max),
            "mean_difference": _rounded(self.agreement.mean),
            "top1_agreement": _rounded(self.agreement.top1),
            "adapter_base_difference": _rounded(self.effect),
            "trained_mean_difference": _rounded(self.trained.mean),
            "trained_top1_agreement": _rounded(self.trained.top1),
            "loss": {name: _rounded(loss) for name, loss in self.losses.items()},
            "engine": self.engine,
            "at": self.at.isoformat(timespec="seconds"),
        }


def certify(
    version: Version, rows: Sequence[Encoded], served: Served, reference: Reference
) -> Certificate:
    """Compare what a server said of `rows` with what PEFT says."""
    tolerance = TOLERANCES[served.dtype]
    agreement = compare_scores(reference.as_served, served.adapter.scores)
    effect = compare_scores(served.adapter.scores, served.base.scores).mean
    losses = {}
    if reference.quantization != "none":
        losses[reference.quantization] = mean_loss(reference.trained)
    losses["unquantised"] = mean_loss(reference.unquantised)
    if reference.merged is not None:
        losses["merged"] = mean_loss(reference.merged)
    losses["served"] = mean_loss(served.adapter.scores)
    return Certificate(
        dtype=served.dtype,
        tolerance=tolerance,
        rows=len(rows),
        agreement=agreement,
        trained=compare_scores(reference.trained, served.adapter.scores),
        effect=effect,
        losses=losses,
        engine=served.adapter.engine,
        at=datetime.now(UTC),
        problems=tuple(_problems(version, served, agreement, effect, tolerance)),
    )


def _problems(
    version: Version,
    served: Served,
    agreement: Agreement,
    effect: float,
    tolerance: Tolerance,
) -> "list[str]":
    problems = []
    if served.adapter.digest != version.digest:
        problems.append(f"the server's {version.reference} has other weights than this registry's")
    if served.adapter.base_digest != version.manifest.base.digest:
        problems.append("the server runs another base")
    if not agreement.max <= tolerance.max:
        problems.append(
            f"a token's log-probability differs by {agreement.max:.4g}, "
            f"more than {tolerance.max:g} in {served.dtype}"
        )
    if not agreement.mean <= tolerance.mean:
        problems.append(
            f"the log-probabilities differ by {agreement.mean:.4g} on average, "
            f"more than {tolerance.mean:g} in {served.dtype}"
        )
    if not agreement.top1 >= tolerance.top1:
        problems.append(
            f"in {agreement.top1:.1%} of the places the likeliest token is the same, "
            f"less than {tolerance.top1:.0%}"
        )
    if not effect > tolerance.mean:
        problems.append(
            f"served with the adapter and without, the log-probabilities differ by {effect:.4g} "
            f"on average: no more than rounding does ({tolerance.mean:g})"
        )
    return problems


def _rounded(value: float) -> float:
    """To six significant digits."""
    return float(f"{value:.6g}")
