"""Looking again and again."""

import asyncio
import json

import pytest
from exposition import look, metrics

from serve.top.errors import NotShown, ServerAway
from serve.top.source import Look
from serve.top.watch import Watch, lines, once

pytestmark = pytest.mark.anyio


class Server:
    """A source that gives these one after the other, and the last one for ever."""

    url = "http://test"

    def __init__(self, *answers: Look | Exception) -> None:
        self._answers = list(answers)

    async def look(self) -> Look:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def at(seconds: float, n: int) -> Look:
    return look(metrics(n), seconds)


def watch(*answers: Look | Exception, window: float = 10.0) -> Watch:
    return Watch(Server(*answers), window)  # type: ignore[arg-type]


async def test_rates_are_over_the_window() -> None:
    looking = watch(at(0, 1), at(4, 2), at(8, 3), at(12, 4), at(16, 5))
    assert [(await looking.look()).seconds for _ in range(5)] == [None, 4, 8, 12, 12]


async def test_with_looks_further_apart_than_the_window_rates_are_over_the_last_two() -> None:
    looking = watch(at(0, 1), at(20, 2), at(40, 3))
    assert [(await looking.look()).seconds for _ in range(3)] == [None, 20, 20]


async def test_a_server_that_is_away_is_asked_again_and_what_was_known_stays() -> None:
    looking = watch(
        ServerAway("gone"), at(0, 1), at(4, 2), ServerAway("gone"), at(90, 1), at(94, 2)
    )
    never, first, second, away, back, on = [await looking.look() for _ in range(6)]
    assert (never.away, never.server) == ("gone", None)
    assert first.away is None
    assert (second.away, second.seconds) == (None, 4)
    assert (away.away, away.server, away.models) == ("gone", second.server, second.models)
    assert (back.away, back.seconds) == (None, None)
    assert on.seconds == 4


async def test_a_refusal_ends_it() -> None:
    with pytest.raises(NotShown):
        await watch(NotShown("no")).look()


async def test_once_is_over_one_interval_of_a_server_that_is_there() -> None:
    frame = await once(Server(at(0, 1), at(3, 2)), 0.0)  # type: ignore[arg-type]
    assert frame.seconds == 3
    with pytest.raises(ServerAway):
        await once(Server(ServerAway("gone")), 0.0)  # type: ignore[arg-type]


async def test_lines_for_programs_begin_with_the_first_rates() -> None:
    told: list[str] = []
    looking = watch(at(0, 1), at(4, 2), ServerAway("gone"))
    task = asyncio.create_task(lines(looking, 0.0, told.append))
    while len(told) < 3:
        await asyncio.sleep(0)
    task.cancel()
    frames = [json.loads(line) for line in told[:3]]
    assert [frame["away"] for frame in frames] == [None, "gone", "gone"]
    assert [frame["seconds"] for frame in frames] == [4, 4, 4]
    assert not any("\n" in line for line in told)
