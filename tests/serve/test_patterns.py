"""Regular expressions: the usual ones pass, what would keep the compiler busy does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.patterns import pattern_cost
from serve.schemas import MAX_COST


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        r"^\d{4}-\d{2}-\d{2}$",
        r"^(\d{1,3}\.){3}\d{1,3}$",
        r"^[a-z0-9]+(-[a-z0-9]+)*$",
        r"^[a-zA-Z0-9._%+-]+@[a-zA-Z0-9.-]+\.[a-zA-Z]{2,}$",
        r"^[A-Z][a-z]{1,50} [A-Z][a-z]{1,50}$",
        r"^(?:red|green|blue)$",
        r"^(?<year>\d+)/(?P<month>\d+)$",
        r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
        r"^\+?[1-9]\d{1,14}$",
        r"^.{1,500}$",
        r"^[\u4e00-\u9fff\x20-\x7e]{1,20}$",
        r"^[^<>\]]*?\u{1F600}$",
        "|".join(f"word{i}" for i in range(50)),
        "é+]}",
    ],
)
def test_usual_patterns_are_cheap(pattern: str) -> None:
    assert pattern_cost(pattern) < MAX_COST / 2


@pytest.mark.parametrize(
    "pattern",
    [
        r"^(([a-z]{1,10}){1,10}){1,10}$",
        r"^(.{1,10}){1,10}$",
        r"^(\w+\s?){1,50}$",
        ".?" * 40,
        "[a-z]?" * 80,
        r"^.{1,50}.{1,50}.{1,50}$",
        r"^.{1,100000}(.{1,100000})*$",
        r"^((\w\w|\w){1,20}|\d){1,20}$",
    ],
)
def test_what_takes_the_compiler_seconds_is_over_the_budget(pattern: str) -> None:
    assert pattern_cost(pattern) > MAX_COST


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("(", r"without its \)"),
        ("a)", r"unmatched \)"),
        ("[a", "without its ]"),
        ("[]", "an empty class"),
        ("[z-a]", "backwards"),
        (r"[^\s\S]", "matches nothing"),
        ("*a", r"nothing before \*"),
        ("|+", r"nothing before \+"),
        ("\\", "a lone"),
        (r"(a)\1", "back-reference"),
        (r"\bword\b", "word boundary"),
        (r"\p{L}", "Unicode property"),
        ("(?=a)", "look-around"),
        ("(?<!a)b", "look-around"),
        ("(?i)a", "flag"),
        ("(?<1>a)", "name"),
        ("a{1", "repetition"),
        ("a{,5}", "repetition"),
        ("a{5,1}", "backwards"),
        ("a{1,1000000}", "over 100000"),
        ("a{99999999999999999999}", "repetition"),
        (r"\u{110000}", "escape"),
        (r"\u12", "escape"),
        (r"\xg0", "escape"),
        ("((((a*)*)*)*)*", "repetitions nested"),
        ("(" * 17 + ")" * 17, "groups nested"),
        ("(" * 500, "groups nested"),
        ("a" * 513, "over 512 characters"),
    ],
)
def test_what_no_automaton_can_follow_is_refused(pattern: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        pattern_cost(pattern)


@given(st.text("()[]{}?*+|^$\\.-,:<>!=PabuxdwDW019", max_size=40) | st.text(max_size=40))
def test_any_text_has_a_price_or_a_problem(pattern: str) -> None:
    try:
        assert pattern_cost(pattern) >= 0
    except ValueError as error:
        assert "a pattern" in str(error)
