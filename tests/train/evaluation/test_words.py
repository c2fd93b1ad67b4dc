"""What of an answer's writing counts."""

from itertools import combinations

import pytest

from train.evaluation.words import normalised, words


def test_answers_are_compared_without_case_quotes_full_stops_and_spacing() -> None:
    assert normalised("  «Electrónica».\n") == normalised("electro\u0301nica")
    assert normalised("a  b") == "a b"
    assert normalised("¿Qué?") == normalised("qué…")
    assert normalised("「東京」。") == "東京"
    assert normalised("Hogar") != normalised("Hogares")
    assert normalised("Electronica") != normalised("Electrónica")


@pytest.mark.parametrize(
    "different",
    [
        ("+", "-", "*", "***", "?", "!", ""),
        ("5", "-5", ".5", "$5", "5%", "+5", "(5)"),
        ("C", "C++", "C#"),
        ("A", "A+", "A-"),
        ("[]", "{}", "()"),
    ],
)
def test_signs_are_what_is_said(different: tuple[str, ...]) -> None:
    for one, other in combinations(different, 2):
        assert normalised(one) != normalised(other)
    assert normalised(f'"{different[1]}"') == normalised(different[1])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Psion Ltd (1984) created **OPL**.", ["psion", "ltd", "1984", "created", "opl"]),
        ("-5 °C — C++!", ["-5", "°c", "c++"]),
        ("+", ["+"]),
        ("", []),
        ("東京は、Linux 2台。", ["東", "京", "は", "linux", "2", "台"]),
        ("서울 특별시", ["서울", "특별시"]),
        ("ไทย", ["ไ", "ท", "ย"]),
    ],
)
def test_words_are_characters_where_nothing_stands_between_them(
    text: str, expected: list[str]
) -> None:
    assert words(text) == expected
