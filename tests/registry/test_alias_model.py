"""Any sequence of what can be done to versions and aliases, against a plain model of it."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from registry import Alias, AliasRefused, Base, Registry, RegistrySettings, UnknownAdapter

NUMBERS = st.integers(1, 6)


class AliasMachine(RuleBasedStateMachine):
    """The model: which numbers are live, which held, the stack of what prod pointed to, its canary.

    Five draws around each share stand for all.
    """

    folder: Path
    base: Base
    adapters: list[Path]
    runs = 0

    def __init__(self) -> None:
        super().__init__()
        AliasMachine.runs += 1
        home = self.folder / str(AliasMachine.runs)
        self.registry = Registry.open(RegistrySettings(home=home))
        self.live: dict[int, Path] = {}
        self.next = 1
        self.held: set[int] = set()
        self.stack: list[int] = []
        self.canary: tuple[int, int] | None = None

    def teardown(self) -> None:
        self.registry.close()

    @rule(which=st.integers(0, 3))
    def publish(self, which: int) -> None:
        folder = self.adapters[which]
        version = self.registry.publish(folder, "m", base=self.base)
        known = [number for number, source in self.live.items() if source == folder]
        if known:
            assert version.number == known[0]
        else:
            assert version.number == self.next
            self.live[self.next] = folder
            self.next += 1

    @rule(number=NUMBERS)
    def promote(self, number: int) -> None:
        if number not in self.live:
            with pytest.raises(UnknownAdapter):
                self.registry.promote("m", number, force="a test")
        elif number in self.held:
            with pytest.raises(AliasRefused):
                self.registry.promote("m", number, force="a test")
        else:
            self.registry.promote("m", number, force="a test")
            self.canary = None
            if self.stack[-1:] != [number]:
                self.stack.append(number)

    @rule(number=NUMBERS, percent=st.integers(1, 99))
    def start_canary(self, number: int, percent: int) -> None:
        if number not in self.live:
            with pytest.raises(UnknownAdapter):
                self.registry.promote("m", number, canary=percent, force="a test")
        elif number in self.held or not self.stack or self.stack[-1] == number:
            with pytest.raises(AliasRefused):
                self.registry.promote("m", number, canary=percent, force="a test")
        else:
            assert (
                self.registry.promote("m", number, canary=percent, force="a test").number == number
            )
            self.canary = (number, percent)

    @rule(number=NUMBERS)
    def quarantine(self, number: int) -> None:
        if number in self.live:
            self.registry.quarantine("m", number, "why")
            self.held.add(number)
        else:
            with pytest.raises(UnknownAdapter):
                self.registry.quarantine("m", number, "why")

    @rule(number=NUMBERS)
    def release(self, number: int) -> None:
        if number in self.live:
            assert self.registry.release("m", number).quarantine is None
            self.held.discard(number)
        else:
            with pytest.raises(UnknownAdapter):
                self.registry.release("m", number)

    @rule(number=NUMBERS)
    def remove(self, number: int) -> None:
        pointed_at = {*self.stack[-1:], *(self.canary or ())[:1]}
        if number in self.live and number not in pointed_at:
            self.registry.remove("m", number)
            del self.live[number]
            self.held.discard(number)
        else:
            with pytest.raises((UnknownAdapter, AliasRefused)):
                self.registry.remove("m", number)

    @rule()
    def rollback(self) -> None:
        now = self.stack[-1:]
        if self.canary is not None:
            assert [self.registry.rollback("m").number] == now
            self.canary = None
            return
        before = [n for n in self.stack if n in self.live and n not in self.held and [n] != now]
        if before:
            assert self.registry.rollback("m").number == before[-1]
            while self.stack[-1] != before[-1]:
                self.stack.pop()
        else:
            with pytest.raises((UnknownAdapter, AliasRefused)):
                self.registry.rollback("m")

    @invariant()
    def what_is_served_is_what_the_model_says(self) -> None:
        versions = self.registry.list()
        assert [version.number for version in versions] == sorted(self.live)
        assert {v.number for v in versions if v.quarantine is not None} == self.held
        if not self.live:
            return
        served = self.stack[-1] if self.stack else max(self.live)
        assert self.registry.get("m").number == served
        assert self.registry.get("m@latest", draw=0.0).number == max(self.live)
        number, percent = self.canary or (None, 0)
        aliases = [Alias("prod", served, number, percent)] if self.stack else []
        assert self.registry.aliases("m") == aliases
        for hundredth in {0, percent - 1, percent, percent + 1, 99} & set(range(100)):
            drawn = number is not None and number not in self.held and hundredth < percent
            version = self.registry.get("m", draw=hundredth / 100)
            assert version.number == (number if drawn else served)
        assert versions == [self.registry.get(version.reference) for version in versions]


def test_aliases_follow_the_model(tmp_path: Path, base: Base, adapters: list[Path]) -> None:
    AliasMachine.folder, AliasMachine.base, AliasMachine.adapters = tmp_path, base, adapters
    run_state_machine_as_test(
        AliasMachine,
        settings=settings(
            max_examples=20,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
