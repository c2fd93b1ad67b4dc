"""At most so many label values, those of the busiest, whatever comes."""

import random
from collections import Counter

from serve.top_labels import OTHER, UNKNOWN, TopLabels


def test_the_first_names_have_labels_and_the_rest_are_other() -> None:
    labels = TopLabels(2, lambda _: None, kept=["base"])
    assert [labels.count(name) for name in ("a", "b", "c", "base", "a")] == [
        *("a", "b", OTHER, "base", "a")
    ]
    assert [labels.label(name) for name in ("a", "c", "base", UNKNOWN)] == [
        *("a", OTHER, "base", UNKNOWN)
    ]


def test_a_busy_name_takes_the_place_of_the_least_busy() -> None:
    forgotten: list[str] = []
    labels = TopLabels(2, forgotten.append)
    for name in ["a"] * 9 + ["b"] * 3:
        labels.count(name)
    said = [labels.count("c") for _ in range(8)]
    assert said == [OTHER] * 6 + ["c"] * 2
    assert forgotten == ["b"]
    assert set(labels.own) == {"a", "c"}
    assert labels.label("b") == OTHER
    assert [labels.count("b") for _ in range(30)][-1] == "b"  # and back again


def test_ten_thousand_names_take_no_memory_and_no_label_of_a_busy_one() -> None:
    forgotten: list[str] = []
    labels = TopLabels(10, forgotten.append)
    busy = [f"busy-{number}" for number in range(10)]
    draw = random.Random(0)
    for number in range(20_000):
        labels.count(draw.choice(busy))
        labels.count(f"seldom-{number % 10_000}")
    assert len(labels.own) == 10
    assert len(labels._candidates) <= 10
    assert set(labels.own) >= set(busy[1:])  # `busy` had no start over the others
    assert len(forgotten) <= 10


def test_names_that_come_once_each_do_not_chase_each_other() -> None:
    forgotten: list[str] = []
    labels = TopLabels(100, forgotten.append)
    for number in range(50_000):
        labels.count(f"name-{number}")
    assert len(forgotten) < 50_000 / 30
    assert len(labels.own) + len(labels._candidates) <= 200


def test_what_was_busy_long_ago_gives_way() -> None:
    labels = TopLabels(2, lambda _: None)
    for name in ["old"] * 10_000 + ["here"] * 10:
        labels.count(name)
    said = Counter(labels.count(name) for _ in range(2_000) for name in ("new", "here"))
    assert said["new"] > 1_000
    assert labels.label("old") == OTHER
