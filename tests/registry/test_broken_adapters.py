"""Each kind of broken adapter is refused by its own code, and none is ever published."""

import re
from pathlib import Path
from typing import Any

import pytest
from broken_adapters import BROKEN, Breaker

from registry import AdapterRejected, Base, Limits, Registry, check_adapter

LIMITS = Limits(max_rank=16, max_bytes=8 << 20)


@pytest.mark.parametrize(
    ("code", "breaker"), [(c, b) for _, c, b in BROKEN], ids=[name for name, _, _ in BROKEN]
)
def test_a_broken_adapter_is_refused(
    adapter: Path, base: Base, home: Path, edit: Any, code: str, breaker: Breaker
) -> None:
    breaker(edit)
    problems = check_adapter(adapter, base, LIMITS)
    found = [problem for problem in problems if problem.code == code]
    assert found, problems
    assert found[0].severity == "error"
    for problem in problems:
        assert problem.message
        assert problem.remedy
        assert (problem.message + problem.remedy).isprintable()
        assert len(problem.message) <= 1000
    with Registry.open() as registry:
        with pytest.raises(AdapterRejected) as caught:
            registry.publish(adapter, "broken", base=base, limits=LIMITS)
        assert code in {problem.code for problem in caught.value.problems}
        assert caught.value.remedy
        assert registry.list() == []
        assert list(registry.settings.staging.iterdir()) == []
    assert not (adapter / "opened").exists()


def test_the_corpus_is_large_and_each_kind_is_told_apart() -> None:
    assert len(BROKEN) >= 90
    assert len({code for _, code, _ in BROKEN}) >= 40


def test_the_codes_are_words() -> None:
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)+", code) for _, code, _ in BROKEN)
