"""The hours of training."""

from datetime import datetime

import pytest

from train.worker.window import ALWAYS, Window


@pytest.mark.parametrize(
    ("text", "at", "is_open"),
    [
        ("22:00-06:00", "21:59", False),
        ("22:00-06:00", "22:00", True),
        ("22:00-06:00", "00:00", True),
        ("22:00-06:00", "05:59", True),
        ("22:00-06:00", "06:00", False),
        ("9:30-17:00", "09:29", False),
        ("9:30-17:00", "09:30", True),
        ("9:30-17:00", "17:00", False),
        ("24h", "13:00", True),
    ],
)
def test_a_window_is_open_within_its_hours_also_over_midnight(
    text: str, at: str, is_open: bool
) -> None:
    now = datetime.fromisoformat(f"2026-11-24T{at}:00")
    assert Window.parse(text).is_open(now) is is_open


@pytest.mark.parametrize("text", ["", "22:00", "22:00-24:00", "22-6", "1:00-2:00-3:00", "x-y"])
def test_what_is_no_window(text: str) -> None:
    with pytest.raises(ValueError, match="write 22:00-06:00"):
        Window.parse(text)


def test_a_window_without_any_time_is_refused_and_each_is_told_as_it_is_written() -> None:
    with pytest.raises(ValueError, match="write 24h for always"):
        Window.parse("22:00-22:00")
    assert str(Window.parse(" 22:00-6:00 ")) == "22:00-06:00"
    assert (str(ALWAYS), Window.parse("24h")) == ("24h", ALWAYS)
