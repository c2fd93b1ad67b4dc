"""A run through the stages of its shape: where it is, and what Locust is to do about it."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from locust import LoadTestShape, User

from loadtests.shapes import Passed, Stage, bounds, is_saturated, stage_at

log = logging.getLogger("loadtests")


class Course:
    """The stages on the clock, which starts with the first user."""

    def __init__(
        self,
        stages: Sequence[Stage],
        *,
        until_saturated: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.stages = tuple(stages)
        self.saturated = False
        self.cut_short: str | None = None
        """Why it ended before its time, if not for saturation."""
        self._until_saturated = until_saturated
        self._clock = clock
        self._began: float | None = None
        self._ended: float | None = None
        self._tokens = [0] * len(self.stages)

    def begin(self) -> float:
        """Start the clock, if it has not started; when that was."""
        if self._began is None:
            self._began = self._clock()
        return self._began

    def count(self, tokens: int) -> None:
        """Of an answer that has just come to its end."""
        number = self._number()
        if number is not None:
            self._tokens[number] += tokens

    def stage(self) -> Stage | None:
        """The stage that it is time for; None once the run is over."""
        number = self._number()
        if number is None:
            return None
        if self._until_saturated and not self.saturated:
            done = zip(self._tokens[:number], self.stages, strict=False)
            if is_saturated([tokens / stage.seconds for tokens, stage in done]):
                self.saturated = True
                self._ended = self._clock()
                log.info("saturated: the last steps brought no more tokens/s; the ramp ends")
                return None
        return self.stages[number]

    def passed(self) -> list[Passed]:
        """The stages so far; one that was cut short ends where it was."""
        if self._began is None:
            return []
        now = self._clock() if self._ended is None else self._ended
        return [
            Passed(
                stage.name,
                stage.level,
                stage.noise,
                self._began + begin,
                min(self._began + end, now),
            )
            for stage, begin, end in bounds(self.stages)
            if self._began + begin < now
        ]

    def end(self) -> None:
        """No stage goes on from here."""
        self._ended = self._clock() if self._ended is None else self._ended

    def write(self, path: Path) -> None:
        """What `passed` says, and how it ended, as a JSON file."""
        stages = [asdict(stage) for stage in self.passed()]
        document = {"saturated": self.saturated, "cut_short": self.cut_short, "stages": stages}
        path.write_text(json.dumps(document) + "\n")

    def _number(self) -> int | None:
        if self._ended is not None:
            return None
        return stage_at(self.stages, 0 if self._began is None else self._clock() - self._began)


class CourseShape(LoadTestShape):  # type: ignore[misc]
    """Locust's side of a course: as many users as the stage's level, or one that sends arrivals."""

    abstract = True
    use_common_options = True

    def __init__(self, course: Course, users: Sequence[type[User]], *, is_open: bool) -> None:
        super().__init__()
        self._course = course
        self._users = list(users)
        self._is_open = is_open
        self._pace = max(1.0, *(stage.level + stage.noise for stage in course.stages))
        """Users to start or to end in a second: all of them, so that a stage begins at once."""

    def tick(self) -> tuple[int, float, list[Any]] | None:
        """Asked once a second: how many users, how many of them to start in a second, and who."""
        stage = self._course.stage()
        if stage is None:
            return None
        count = 1 if self._is_open else int(stage.level + stage.noise)
        return count, self._pace, self._users
