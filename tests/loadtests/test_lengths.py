"""Lengths from a file: what is drawn, and what is refused."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from loadtests.lengths import DEFAULT_LENGTHS, Length, Lengths
from loadtests.traffic import chat_request
from registry import UsageError


def test_pairs_are_drawn_by_weight(tmp_path: Path) -> None:
    file = tmp_path / "lengths.csv"
    file.write_text("prompt,output,weight\n16,8,3\n400,64,1\n9,9,0\n")
    lengths = Lengths.read(file)
    assert lengths.lengths[1] == Length(400, 64, 1.0)
    assert lengths.longest == 464
    source = random.Random(0)
    drawn = Counter(lengths.draw(source).prompt for _ in range(10_000))
    assert set(drawn) == {16, 400}
    assert drawn[16] == pytest.approx(7500, abs=200)


def test_the_default_file_and_a_weight_that_is_left_out(tmp_path: Path) -> None:
    assert Lengths.read(DEFAULT_LENGTHS).longest < 1024
    file = tmp_path / "one.json"
    file.write_text('{"lengths": [{"prompt": 4, "output": 2}]}')
    assert Lengths.read(file).lengths == (Length(4, 2, 1.0),)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "{", "not JSON"),
        ("a.json", "[]", "no list `lengths`"),
        ("a.json", '{"lengths": []}', "no length has a weight"),
        ("a.json", '{"lengths": [7, {"prompt": 0, "output": 1}]}', "length 1 is not an object; le"),
        ("a.json", '{"lengths": [{"prompt": 1, "output": 1, "weight": -1}]}', "weight -1"),
        ("a.json", '{"lengths": [{"prompt": true, "output": 1}]}', "True is not a whole number"),
        ("a.json", '{"lengths": [{"prompt": 1, "output": 10000000}]}', "output 10000000"),
        ("a.csv", "prompt,output,weight\n5,x,1\n", "length 1"),
        ("a.csv", "prompt,output,weight\n5,5,nan\n", "weight nan"),
        ("a.csv", "other\n1\n", "None is not a whole number"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(UsageError, match=said):
        Lengths.read(file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.json"):
        Lengths.read(tmp_path / "none.json")


def test_prompts_are_about_as_long_as_they_are_to_be() -> None:
    body = chat_request("opl", random.Random(0), max_tokens=5, prompt_tokens=200)
    words = body["messages"][0]["content"].split()
    assert len(words) == 193
    assert json.dumps(body)
    shortest = chat_request("opl", random.Random(0), max_tokens=5, prompt_tokens=1)
    assert len(shortest["messages"][0]["content"].split()) == 2
