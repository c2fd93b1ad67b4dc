"""Canaries and quarantine: a share of an alias's requests, and what must not be served."""

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry import Alias, AliasRefused, Base, Registry, UnknownAdapter, UsageError

pytestmark = pytest.mark.usefixtures("database_url")


@pytest.fixture
def registry(home: Path, base: Base, adapters: list[Path]) -> Any:
    """Four versions of titulares, prod being the third."""
    with Registry.open() as registry:
        for adapter in adapters:
            registry.publish(adapter, "titulares", base=base)
        registry.promote("titulares", 3, force="a test")
        yield registry


def share(registry: Registry, reference: str = "titulares") -> dict[int, int]:
    """How many of 100 evenly spread draws each version gets."""
    found: dict[int, int] = {}
    for place in range(100):
        number = registry.get(reference, draw=place / 100).number
        found[number] = found.get(number, 0) + 1
    return found


def test_a_canary_gets_its_share(registry: Registry) -> None:
    assert registry.promote("titulares", 4, canary=10, force="a test").number == 4
    for reference in ("titulares", "titulares@prod"):
        assert share(registry, reference) == {3: 90, 4: 10}
        assert registry.get(reference).number == 3
    assert share(registry, "titulares@3") == {3: 100}
    assert share(registry, "titulares@latest") == {4: 100}
    assert registry.aliases("titulares") == [Alias("prod", 3, 4, 10)]
    stable, canary = registry.get("titulares@3"), registry.get("titulares@4")
    assert (stable.aliases, stable.canaries) == (("prod",), ())
    assert (canary.aliases, canary.canaries) == (("latest",), (("prod", 10),))
    assert [version.canaries for version in registry.list()] == [(), (), (), (("prod", 10),)]


@settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)
@given(percent=st.integers(1, 99), draw=st.floats(0, 1, exclude_max=True))
def test_whose_draw_is_low_stays_with_the_canary(
    registry: Registry, percent: int, draw: float
) -> None:
    """Whatever share it is given next: a larger one takes nobody off it."""
    registry.promote("titulares", 4, canary=percent, force="a test")
    expected = 4 if draw < percent / 100 else 3
    assert registry.get("titulares", draw=draw).number == expected


def test_a_rollback_does_what_a_person_expects(registry: Registry) -> None:
    registry.promote("titulares", 4, canary=10, force="a test")
    assert registry.rollback("titulares").number == 3
    assert share(registry) == {3: 100}
    registry.promote("titulares", 4, canary=10, force="a test")
    registry.promote("titulares", 4, force="a test")
    assert share(registry) == {4: 100}
    assert registry.aliases("titulares") == [Alias("prod", 4)]
    assert registry.rollback("titulares").number == 3
    assert share(registry) == {3: 100}
    with pytest.raises(AliasRefused, match="none before it"):
        registry.rollback("titulares")


def test_a_canary_is_replaced_by_the_next(registry: Registry) -> None:
    registry.promote("titulares", 4, canary=10, force="a test")
    registry.promote("titulares", 4, canary=50, force="a test")
    assert share(registry) == {3: 50, 4: 50}
    registry.promote("titulares", 1, canary=5, force="a test")
    assert share(registry) == {3: 95, 1: 5}
    registry.promote("titulares", 3, force="a test")  # to where it is: it ends the canary
    assert share(registry) == {3: 100}


def test_each_alias_has_its_own_canary(registry: Registry) -> None:
    registry.promote("titulares", 1, "staging", force="a test")
    registry.promote("titulares", 2, "staging", canary=30, force="a test")
    registry.promote("titulares", 4, canary=20, force="a test")
    assert share(registry, "titulares@staging") == {1: 70, 2: 30}
    assert share(registry) == {3: 80, 4: 20}
    assert registry.aliases("titulares") == [Alias("prod", 3, 4, 20), Alias("staging", 1, 2, 30)]
    registry.rollback("titulares", "staging")
    assert share(registry) == {3: 80, 4: 20}


def test_a_canary_that_cannot_be_is_refused(registry: Registry, base: Base) -> None:
    with pytest.raises(AliasRefused, match="already"):
        registry.promote("titulares", 3, canary=10, force="a test")
    with pytest.raises(AliasRefused, match="no alias 'staging'"):
        registry.promote("titulares", 4, "staging", canary=10, force="a test")
    with pytest.raises(AliasRefused, match="latest"):
        registry.promote("titulares", 4, "latest", canary=10, force="a test")
    with pytest.raises(UnknownAdapter):
        registry.promote("titulares", 9, canary=10, force="a test")
    for percent in (0, 100, -1):
        with pytest.raises(UsageError):
            registry.promote("titulares", 4, canary=percent, force="a test")
    assert registry.aliases("titulares") == [Alias("prod", 3)]
    with pytest.raises(UnknownAdapter):
        registry.aliases("nobody")


def test_a_canary_is_not_removed(registry: Registry) -> None:
    registry.promote("titulares", 4, canary=10, force="a test")
    with pytest.raises(AliasRefused, match="canary of prod") as caught:
        registry.remove("titulares", 4)
    assert "rollback titulares --alias prod" in str(caught.value.remedy)
    registry.rollback("titulares")
    registry.remove("titulares", 4)


def test_a_quarantine_stays_until_it_is_lifted(registry: Registry) -> None:
    registry.quarantine("titulares", 4, "NaN in its output")
    registry.quarantine("titulares", 4, "something else")
    for opened in (registry, Registry.open()):
        assert opened.get("titulares@4").quarantine == "NaN in its output"
        assert [version.quarantine for version in opened.list()][2:] == [None, "NaN in its output"]
    opened.close()
    assert registry.get("titulares").quarantine is None
    assert registry.release("titulares", 4).quarantine is None
    assert registry.release("titulares", 4).quarantine is None
    registry.quarantine("titulares", 4, "again")
    assert registry.get("titulares@4").quarantine == "again"
    for act in (registry.release, lambda name, n: registry.quarantine(name, n, "x")):
        with pytest.raises(UnknownAdapter):
            act("titulares", 9)


def test_a_quarantined_canary_gets_nothing(registry: Registry) -> None:
    registry.promote("titulares", 4, canary=50, force="a test")
    registry.quarantine("titulares", 4, "NaN")
    assert share(registry) == {3: 100}
    assert registry.get("titulares@4", draw=0.0).quarantine == "NaN"
    registry.release("titulares", 4)
    assert share(registry) == {3: 50, 4: 50}


def test_what_is_quarantined_is_not_promoted(registry: Registry) -> None:
    registry.quarantine("titulares", 4, "NaN")
    for canary in (None, 10):
        with pytest.raises(AliasRefused, match="NaN") as caught:
            registry.promote("titulares", 4, canary=canary, force="a test")
        assert "release titulares@4" in str(caught.value.remedy)
    assert share(registry) == {3: 100}


def test_a_rollback_passes_over_what_is_quarantined(registry: Registry) -> None:
    registry.promote("titulares", 1, force="a test")
    registry.promote("titulares", 4, force="a test")
    registry.quarantine("titulares", 1, "NaN")
    registry.quarantine("titulares", 4, "NaN")
    assert registry.get("titulares").quarantine == "NaN"
    assert registry.rollback("titulares").number == 3


def test_uploads_have_a_folder_of_their_own(registry: Registry) -> None:
    with registry.incoming() as one, registry.incoming() as two:
        assert one != two
        assert one.stat().st_mode & 0o777 == 0o700
        (one / "file").write_text("x")
        assert one.parent == registry.settings.staging
    assert list(registry.settings.staging.iterdir()) == []
    with pytest.raises(KeyError), registry.incoming() as folder:
        raise KeyError
    assert not folder.exists()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_draw_costs_no_more(registry: Registry) -> None:
    registry.promote("titulares", 4, canary=50, force="a test")
    registry.get("titulares", draw=0.1)
    times = []
    for _ in range(200):
        start = time.perf_counter()
        registry.get("titulares", draw=0.1)
        times.append(time.perf_counter() - start)
    assert sorted(times)[len(times) // 4] < 0.001  # the machine may be busy with other things
