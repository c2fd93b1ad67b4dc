"""An alias moves only where whoever moves it has seen it last: two publishers do not undo it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry import AliasMoved, AliasRefused, Base, Registry

pytestmark = pytest.mark.usefixtures("database_url")
POSTGRESQL = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture
def registry(home: Path, base: Base, adapters: list[Path]) -> Iterator[Registry]:
    """With four versions of `opl` and no alias."""
    with Registry.open() as opened:
        for adapter in adapters:
            opened.publish(adapter, "opl", base=base)
        yield opened


def test_an_alias_that_points_elsewhere_stays(registry: Registry) -> None:
    registry.promote("opl", 1, force="a test", expected=0)
    registry.promote("opl", 2, force="a test", expected=1)
    for expected, wanted in ((1, "to point at version 1"), (0, "not to be set")):
        for canary in (None, 10):
            with pytest.raises(AliasMoved, match=f"points at version 2.*{wanted}") as caught:
                registry.promote("opl", 3, force="a test", expected=expected, canary=canary)
            assert caught.value.remedy
    with pytest.raises(AliasMoved, match=r"is not set.*version 4"):
        registry.promote("opl", 3, "staging", expected=4)
    (alias,) = registry.aliases("opl")
    assert (alias.number, alias.canary) == (2, None)
    assert [forced.alias for forced in registry.forced("opl@3")] == []
    assert issubclass(AliasMoved, AliasRefused)
    registry.promote("opl", 3, force="a test", expected=2, canary=10)
    registry.promote("opl", 3, force="a test", expected=2)
    assert registry.get("opl").number == 3


def test_the_canary_of_somebody_else_stays(registry: Registry) -> None:
    registry.promote("opl", 1, force="a test")
    registry.promote("opl", 2, force="a test", expected=1, canary=10)
    for canary in (None, 10):
        with pytest.raises(AliasMoved, match=r"has version 2 as its canary.*none but version 3"):
            registry.promote("opl", 3, force="a test", expected=1, canary=canary)
    registry.promote("opl", 2, force="a test", expected=1, canary=50)
    (alias,) = registry.aliases("opl")
    assert (alias.number, alias.canary, alias.percent) == (1, 2, 50)
    registry.promote("opl", 3, force="a test", canary=10)
    registry.rollback("opl")
    registry.promote("opl", 3, force="a test", expected=1)


@POSTGRESQL
def test_of_publishers_at_the_same_time_one_moves_it(registry: Registry) -> None:
    registry.promote("opl", 1, force="a test")
    command = [sys.executable, "-m", "lorikeet", "adapters", "promote", "opl"]
    publishers = [
        subprocess.Popen(
            [*command, str(number), "--expect", "1", "--force", "a test"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
        )
        for number in (2, 3, 4)
    ]
    ended = [publisher.communicate(timeout=60) for publisher in publishers]
    codes = [publisher.returncode for publisher in publishers]
    assert sorted(codes) == [0, 1, 1], ended
    winner = codes.index(0) + 2
    assert registry.get("opl").number == winner
    for (_, said), code in zip(ended, codes, strict=True):
        assert code == 0 or f"points at version {winner}" in said
