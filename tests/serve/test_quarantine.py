"""Failed loads: kept away for longer each time, and never for ever."""

import pytest

from serve.errors import AdapterUnavailable
from serve.quarantine import LONGEST_SECONDS, REMEMBERED, Quarantine


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_each_failure_keeps_away_twice_as_long() -> None:
    clock = Clock()
    quarantine = Quarantine(clock)
    quarantine.check("a")
    waits = []
    for _ in range(10):
        quarantine.failed("a", AdapterUnavailable("broken"))
        with pytest.raises(AdapterUnavailable, match="broken"):
            quarantine.check("a")
        assert quarantine.reason("a") == "broken"
        began = clock.now
        while quarantine.reason("a") is not None:
            clock.now += 1
        waits.append(clock.now - began)
        quarantine.check("a")
    assert waits[:4] == [5, 10, 20, 40]
    assert waits[-1] == LONGEST_SECONDS


def test_a_success_or_an_operator_ends_it() -> None:
    quarantine = Quarantine(Clock())
    quarantine.failed("a", AdapterUnavailable("broken"))
    quarantine.clear("a")
    quarantine.check("a")
    quarantine.clear("never heard of")


def test_memory_is_bounded() -> None:
    quarantine = Quarantine(Clock())
    for number in range(REMEMBERED + 10):
        quarantine.failed(str(number), AdapterUnavailable("broken"))
    assert quarantine.reason("0") is None
    assert quarantine.reason(str(REMEMBERED)) == "broken"
