"""Any sequence of publishing, promoting, rolling back and removing, against a plain model of it."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from registry import AliasRefused, Base, Registry, RegistrySettings, UnknownAdapter


class AliasMachine(RuleBasedStateMachine):
    """The model: which numbers are live, and the stack of what prod pointed to."""

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
        self.stack: list[int] = []

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

    @rule(number=st.integers(1, 6))
    def promote(self, number: int) -> None:
        if number in self.live:
            self.registry.promote("m", number)
            if self.stack[-1:] != [number]:
                self.stack.append(number)
        else:
            with pytest.raises(UnknownAdapter):
                self.registry.promote("m", number)

    @rule(number=st.integers(1, 6))
    def remove(self, number: int) -> None:
        if number in self.live and self.stack[-1:] != [number]:
            self.registry.remove("m", number)
            del self.live[number]
        else:
            with pytest.raises((UnknownAdapter, AliasRefused)):
                self.registry.remove("m", number)

    @rule()
    def rollback(self) -> None:
        now = self.stack[-1:]
        before = [number for number in self.stack if number in self.live]
        while before and before[-1:] == now:
            before.pop()
        if before:
            assert self.registry.rollback("m").number == before[-1]
            while self.stack[-1] != before[-1]:
                self.stack.pop()
        else:
            with pytest.raises((UnknownAdapter, AliasRefused)):
                self.registry.rollback("m")

    @invariant()
    def what_is_served_is_what_the_model_says(self) -> None:
        assert [version.number for version in self.registry.list()] == sorted(self.live)
        if self.live:
            served = self.stack[-1] if self.stack else max(self.live)
            assert self.registry.get("m").number == served
            assert self.registry.get("m@latest").number == max(self.live)


def test_aliases_follow_the_model(tmp_path: Path, base: Base, adapters: list[Path]) -> None:
    AliasMachine.folder, AliasMachine.base, AliasMachine.adapters = tmp_path, base, adapters
    run_state_machine_as_test(
        AliasMachine,
        settings=settings(
            max_examples=15,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
