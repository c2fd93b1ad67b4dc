"""What becomes `prod`: what is shown to be better than both baselines, or forced with a reason."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry import AliasRefused, Base, Registry, RegistrySettings, UsageError, Version


def evaluation(
    base: float = 0.5, few_shot: float = 0.2, rows: int = 40, **changes: Any
) -> dict[str, Any]:
    """An evaluation in which the lower bounds over the baselines are these."""
    comparison = {
        "metric": "accuracy",
        "base": {"difference": base + 0.1, "low": base, "high": base + 0.2},
        "few_shot": {"difference": few_shot + 0.1, "low": few_shot, "high": few_shot + 0.2},
    }
    return {"adapter": {"rows": rows}, "comparison": comparison} | changes


@pytest.fixture
def publish(registry: Registry, base: Base, adapters: list[Path]) -> Callable[..., Version]:
    """Publishes an adapter with an evaluation."""
    folders = iter(adapters)
    return lambda found: registry.publish(next(folders), "titulares", base=base, evaluation=found)


def test_what_is_better_than_both_passes(registry: Registry, publish: Any) -> None:
    publish(evaluation())
    assert registry.promote("titulares", 1).aliases == ("latest", "prod")
    assert registry.forced("titulares@1") == ()


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (None, "nothing shows"),
        ({}, "0 held-out rows"),
        ({"accuracy": 0.9, "adapter": {"rows": 50}}, "compares it with nothing"),
        (evaluation(base=0.0), "better than the base: accuracy \\+0.100 \\(95 %: \\+0.000"),
        (evaluation(few_shot=-0.1), "better than the base with a few-shot prompt"),
        (evaluation(base=float("nan")), "better than the base"),
        (evaluation(rows=9), "9 held-out rows"),
        (evaluation(comparison={"metric": "accuracy"}), "does not compare it with the base"),
        (evaluation(comparison={"base": {"low": 1}}), "compare it with the base with a few"),
        (evaluation(comparison={"base": {"low": "1"}, "few_shot": 3}), "no figures"),
    ],
)
def test_what_is_not_is_held_back(
    registry: Registry, publish: Any, found: dict[str, Any] | None, why: str
) -> None:
    publish(found)
    with pytest.raises(AliasRefused, match=why) as refused:
        registry.promote("titulares", 1)
    assert "--force" in (refused.value.remedy or "")
    assert "prod" not in registry.get("titulares").aliases


def test_a_canary_has_to_pass_too(registry: Registry, publish: Any) -> None:
    publish(evaluation())
    publish(None)
    registry.promote("titulares", 1)
    with pytest.raises(AliasRefused, match="nothing shows"):
        registry.promote("titulares", 2, canary=10)
    registry.promote("titulares", 2, canary=10, force="an experiment")
    assert registry.get("titulares@2").canaries == (("prod", 10),)
    assert registry.forced("titulares@2")[0].reason == "an experiment"


def test_other_aliases_are_free(registry: Registry, publish: Any) -> None:
    publish(None)
    assert "staging" in registry.promote("titulares", 1, "staging").aliases


def test_a_reason_passes_the_gate_and_is_kept(registry: Registry, publish: Any) -> None:
    publish(evaluation(few_shot=-1))
    for empty in ("", "  "):
        with pytest.raises(UsageError, match="reason"):
            registry.promote("titulares", 1, force=empty)
    registry.promote("titulares", 1, force=" the customer asked ")
    (forced,) = registry.forced("titulares")
    assert (forced.alias, forced.reason) == ("prod", "the customer asked")
    assert "few-shot" in forced.refusal


def test_a_reason_that_is_not_needed_is_not_kept(registry: Registry, publish: Any) -> None:
    publish(evaluation())
    registry.promote("titulares", 1, force="to be sure")
    assert registry.forced("titulares") == ()


def test_what_is_in_production_may_stay_there(registry: Registry, publish: Any) -> None:
    """Its canary is ended by promoting it again: that takes no reason."""
    publish(None)
    publish(evaluation())
    registry.promote("titulares", 1, force="a test")
    registry.promote("titulares", 2, canary=10)
    assert "prod" in registry.promote("titulares", 1).aliases
    assert registry.get("titulares@2").canaries == ()
    assert len(registry.forced("titulares@1")) == 1


def test_a_rollback_is_never_held_back(registry: Registry, publish: Any) -> None:
    publish(None)
    publish(evaluation())
    registry.promote("titulares", 1, force="a test")
    registry.promote("titulares", 2)
    assert registry.rollback("titulares").number == 1


def test_a_certificate_is_asked_for_where_that_is_set(
    home: Path, base: Base, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORIKEET_REQUIRE_CERTIFICATE", "true")
    with Registry.open(RegistrySettings()) as registry:
        registry.publish(adapter, "titulares", base=base, evaluation=evaluation())
        with pytest.raises(AliasRefused, match="no certificate") as refused:
            registry.promote("titulares", 1)
        assert "lorikeet adapters certify titulares@1" in (refused.value.remedy or "")
        registry.record("titulares@1", certificate={"passed": False})
        with pytest.raises(AliasRefused, match="not served as it was trained"):
            registry.promote("titulares", 1)
        registry.record("titulares@1", certificate={"passed": True})
        assert "prod" in registry.promote("titulares", 1).aliases
