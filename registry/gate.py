"""The gate before production: only what is proven better than both of its baselines passes.

`prod` is what a bare name means, so it takes more than a command to get there: an evaluation on
held-out rows in which the adapter beats the base, and the base with a few-shot prompt. "Beats" is
decided where the figures are made (`train.evaluation`): each difference comes with its 95 %
interval, and the whole of that has to lie above zero. The registry reads the numbers only.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from registry.errors import AliasRefused, UsageError
from registry.manifest import Manifest
from registry.reference import PROD
from registry.version import Version

FEWEST_ROWS = 10
"""Held-out rows below which nothing is shown: with one row, right once looks like always."""

BASELINES = {"base": "the base", "few_shot": "the base with a few-shot prompt"}


def pass_gate(
    version: Version, alias: str, force: str | None, *, require_certificate: bool
) -> tuple[str, str] | None:
    """Let a version through to `alias`: by its merits, None; or by `force`, the reason.

    Then what the gate said and the reason are returned. A version that `alias` points at already
    has passed. Raises AliasRefused, and UsageError for a reason that is empty.
    """
    if force is not None and not force.strip():
        raise UsageError(
            "a promotion is not forced without a reason",
            remedy="say why, for those who read it later",
        )
    if alias in version.aliases:
        return None
    found = objections(version.manifest, alias, require_certificate=require_certificate)
    if not found:
        return None
    said = "; ".join(what for what, _ in found)
    if force is not None:
        return said, force.strip()
    remedies = "; ".join(dict.fromkeys(remedy for _, remedy in found))
    raise AliasRefused(
        f"{version.reference} cannot become {alias}: {said}",
        remedy=f'{remedies}; or promote it with --force "why"',
    )


def objections(
    manifest: Manifest, alias: str, *, require_certificate: bool
) -> list[tuple[str, str]]:
    """What speaks against promoting a version to `alias`, each with its remedy; mostly nothing."""
    if alias != PROD:
        return []
    found = list(_evaluation(manifest))
    if require_certificate:
        found += _certificate(manifest)
    return found


def _evaluation(manifest: Manifest) -> Iterator[tuple[str, str]]:
    reference = f"{manifest.name}@{manifest.version}"
    remedy = f"lorikeet eval {reference} --data held-out.jsonl"
    if manifest.evaluation is None:
        yield "nothing shows that it is better than the base", remedy
        return
    rows = _rows(manifest.evaluation)
    if rows < FEWEST_ROWS:
        yield f"its evaluation has {rows} held-out rows, {FEWEST_ROWS} are the fewest", remedy
    comparison = manifest.evaluation.get("comparison")
    if not isinstance(comparison, Mapping):
        yield "its evaluation compares it with nothing", remedy
        return
    for name, who in BASELINES.items():
        difference = comparison.get(name)
        if not isinstance(difference, Mapping):
            yield f"its evaluation does not compare it with {who}", remedy
        elif not _is_better(difference):
            yield (
                f"it is not shown to be better than {who}: {_figures(comparison, difference)}",
                "train on more or better rows, or evaluate on more held-out rows",
            )


def _rows(evaluation: Mapping[str, Any]) -> int:
    adapter = evaluation.get("adapter")
    rows = adapter.get("rows") if isinstance(adapter, Mapping) else None
    return rows if isinstance(rows, int) else 0


def _is_better(difference: Mapping[str, Any]) -> bool:
    low = difference.get("low")
    return isinstance(low, int | float) and low > 0  # false for NaN


def _figures(comparison: Mapping[str, Any], difference: Mapping[str, Any]) -> str:
    low, middle, high = (difference.get(key) for key in ("low", "difference", "high"))
    try:
        return (
            f"{comparison.get('metric', 'score')} {float(middle):+.3f} "  # type: ignore[arg-type]
            f"(95 %: {float(low):+.3f} to {float(high):+.3f})"  # type: ignore[arg-type]
        )
    except (TypeError, ValueError):
        return "no figures"


def _certificate(manifest: Manifest) -> Iterator[tuple[str, str]]:
    remedy = f"lorikeet adapters certify {manifest.name}@{manifest.version}"
    if manifest.certificate is None:
        yield "it has no certificate that it is served as it was trained", remedy
    elif manifest.certificate.get("passed") is not True:
        yield "its certificate says that it is not served as it was trained", remedy
