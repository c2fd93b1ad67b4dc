"""Reading a stream, and the arithmetic on its times."""

import itertools
import json

import pytest

from loadtests.answer import Answer, BrokenStream, read_answer

from .conftest import event


def read(lines: list[str]) -> Answer:
    ticks = itertools.count(1)
    return read_answer("opl", 0.5, "".join(lines).splitlines(), lambda: float(next(ticks)))


def test_only_pieces_with_text_count_and_the_servers_count_wins() -> None:
    usage = {"choices": [], "usage": {"completion_tokens": 7}}
    answer = read(
        [
            event({"role": "assistant", "content": ""}),
            ": a comment\n\n",
            event({"content": "a"}),
            event({"content": "b"}),
            f"data: {json.dumps(usage)}\n\n",
            "data: [DONE]\n\n",
        ]
    )
    assert answer == Answer("opl", 0.5, (1.0, 2.0), 7)
    assert answer.ttft == 0.5
    assert answer.gaps == [1.0]


def test_without_usage_each_piece_is_a_token() -> None:
    answer = read([event({"content": "a"}), event({"content": "b"}), "data: [DONE]\n\n"])
    assert answer.tokens == 2


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([event({"content": "a"})], "stopped before"),
        (["data: {\n\n"], "not JSON"),
        (['data: {"error": {"message": "engine died"}}\n\n'], "engine died"),
    ],
)
def test_a_broken_stream_is_told(lines: list[str], said: str) -> None:
    with pytest.raises(BrokenStream, match=said):
        read(lines)


def test_tokens_between_counts_a_piece_as_its_share() -> None:
    answer = Answer("opl", 0.0, (1.0, 2.0, 3.0, 4.0), 8)
    assert answer.tokens_between(0, 10) == 8
    assert answer.tokens_between(2, 4) == 4
    assert answer.tokens_between(4, 4) == 0
    assert Answer("opl", 0.0).tokens_between(0, 10) == 0


def test_an_answer_survives_its_record() -> None:
    for answer in (Answer("opl", 0.25, (1.0, 2.5), 3), Answer("opl", 0.25, error="HTTP 503")):
        assert Answer.from_json(answer.to_json()) == answer
