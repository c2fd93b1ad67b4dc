"""When a promise is kept."""

import math
from io import StringIO

from rich.console import Console

from loadtests.verdict import Verdict, ratio, verdicts_table


def test_a_promise_has_a_direction() -> None:
    assert Verdict("", 0.9, 0.85).kept
    assert not Verdict("", 0.8, 0.85).kept
    assert Verdict("", 0.2, 0.25, at_most=True).kept
    assert not Verdict("", 0.3, 0.25, at_most=True).kept


def test_without_a_goal_there_is_nothing_to_keep() -> None:
    assert Verdict("", 3.0).kept is None


def test_a_figure_that_is_not_there_keeps_no_promise() -> None:
    assert math.isnan(ratio(1.0, 0.0))
    assert Verdict("", math.nan, 0.85).kept is False
    assert Verdict("", math.nan, 0.3, at_most=True).kept is False


def test_the_table_shows_goal_and_figure() -> None:
    console = Console(width=100, file=StringIO(), record=True)
    console.print(verdicts_table([Verdict("slow", 0.456, 0.65, at_most=True), Verdict("so", 2.0)]))
    text = console.export_text()
    assert "≤ 0.65" in text
    assert "0.46" in text
