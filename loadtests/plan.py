"""One run of load: what is sent to whom, and the answers that come of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.answer import Answer
from loadtests.reports.summary import read_course
from loadtests.shapes import Passed
from loadtests.swarm import Crowd, Swarm


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """The locustfile's options; with `rate` 0 there are `users` that wait for their answers."""

    shape: str
    users: int
    rate: float
    seconds: int
    noise: float = 0.0
    """Users, or requests a second, of the noisy tenant."""
    adapters: Sequence[str] = ()
    """Without any: those that the server lists, or all its models, if `base_model` is not named."""
    base_model: str = ""
    base_share: float = 0.0
    zipf: float = 1.0
    lengths: Path | None = None
    max_tokens: int = 64
    whole: bool = False
    leave_share: float = 0.0
    max_in_flight: int = 64
    max_requests: int = 100_000
    seed: int = 0
    allow_remote: bool = False

    def options(self) -> list[str]:
        """Of the locustfile, beside those that a crowd has."""
        options = ["--shape", self.shape, "--rate", str(self.rate), "--noise", str(self.noise)]
        options += ["--zipf", str(self.zipf), "--leave-share", str(self.leave_share)]
        options += ["--max-in-flight", str(self.max_in_flight)]
        options += ["--max-requests", str(self.max_requests)]
        options += ["--max-users", str(int(self.users + self.noise))]
        options += ["--max-rate", str(self.rate + self.noise)]
        if self.adapters:
            options += ["--adapters", ",".join(self.adapters)]
        if self.base_model:
            options += ["--base-model", self.base_model, "--base-share", str(self.base_share)]
        if self.lengths is not None:
            options += ["--lengths", str(self.lengths)]
        return [*options, "--allow-remote"] if self.allow_remote else options

    def run(self, url: str, records: Path, *, api_key: str = "", noisy_key: str = "") -> "LoadRun":
        """Let Locust send it, and wait for its end. Raises: LorikeetError."""
        crowd = Crowd(
            self.users,
            self.seconds,
            self.max_tokens,
            api_key=api_key,
            noisy_key=noisy_key,
            whole=self.whole,
            seed=self.seed,
        )
        with Swarm(crowd, url, self.options(), records) as swarm:
            answers = swarm.join()
        stages, saturated, cut_short = read_course(records.with_suffix(".course.json"))
        return LoadRun(tuple(answers), tuple(stages), saturated, cut_short)

    def describe(self) -> dict[str, Any]:
        """For the report."""
        is_open = self.rate > 0
        described: dict[str, Any] = {
            "shape": self.shape,
            "loop": "open: requests at random moments" if is_open else "closed: users that wait",
            "level": f"{self.rate:g} requests/s" if is_open else f"{self.users} users",
            "noise": self.noise or None,
            "adapters": len(self.adapters) or "those that the server lists",
            "base_model": self.base_model,
            "base_share": self.base_share if self.base_model else None,
            "zipf": self.zipf,
            "lengths": None if self.lengths is None else self.lengths.name,
            "max_tokens": self.max_tokens if self.lengths is None else None,
            "leave_share": self.leave_share or None,
            "max_in_flight": self.max_in_flight if is_open else None,
            "seed": self.seed,
        }
        return {key: value for key, value in described.items() if value not in (None, "")}


@dataclass(frozen=True, slots=True)
class LoadRun:
    """What came of it."""

    answers: tuple[Answer, ...]
    stages: tuple[Passed, ...]
    saturated: bool
    cut_short: str | None = None
    """Why it ended before its time."""
