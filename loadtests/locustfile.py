"""Streaming chat users against any OpenAI-compatible server.

    locust -f loadtests/locustfile.py --host http://127.0.0.1:8000 --headless \\
        --users 8 --spawn-rate 8 --run-time 1m --adapters opl,titulares

Each user asks, reads the answer to its end, and asks again. Locust's table then has, by model,
`answer` (milliseconds for the whole answer; its size is in tokens), `TTFT` (to the first token)
and `ITL` (between tokens); the output tokens/s of the whole run are logged at the end.
Without --adapters and --base-model the adapters are those that the server lists, or all models
where it lists none as an adapter.

With --shape the load changes as the run goes on; with --rate requests come at random moments, so
many a second, and do not wait for each other. `python -m loadtests.load` runs this file so and
makes a report.
"""

import logging
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gevent
from locust import events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import STATE_CLEANUP, STATE_STOPPED, WorkerRunner

from loadtests.course import Course, CourseShape
from loadtests.lengths import Lengths
from loadtests.shapes import SHAPES, Order
from loadtests.traffic import is_loopback
from loadtests.users import ArrivalUser, Asker, ChatUser, NoisyUser
from registry import UsageError

log = logging.getLogger("loadtests")


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_options(parser: LocustArgumentParser) -> None:
    """The options of this file; `locust --help` lists them under its own."""
    group = parser.add_argument_group("Chat traffic")
    group.add_argument("--adapters", default="", help="Adapters, comma-separated, most used first")
    group.add_argument("--zipf", type=float, default=1.0, help="Exponent of their popularity")
    group.add_argument("--pinned", action="store_true", help="Each user stays with one adapter")
    group.add_argument("--base-model", default="", help="Name of the base model, to ask it too")
    group.add_argument("--base-share", type=float, default=0.0, help="Its share of the requests")
    group.add_argument("--max-tokens", type=int, default=64, help="Longest answer, in tokens")
    group.add_argument("--lengths", default="", help="File of prompt and answer lengths instead")
    group.add_argument("--whole", action="store_true", help="Answers of exactly that length")
    group.add_argument("--leave-share", type=float, default=0.0, help="Share of answers cut short")
    group.add_argument("--think-seconds", type=float, default=0.0, help="Pause between requests")
    group.add_argument("--seed", type=int, default=0, help="Of prompts and models")
    group.add_argument("--api-key", default="", env_var="OPENAI_API_KEY", help="Sent as a bearer")
    group.add_argument("--records", default="", help="File to write each answer to, as JSON lines")
    group.add_argument("--max-users", type=int, default=64, help="Refuse more users than this")
    group.add_argument("--max-seconds", type=int, default=600, help="Stop a test after this time")
    group.add_argument("--max-requests", type=int, default=100_000, help="Stop after so many")
    group.add_argument("--allow-remote", action="store_true", help="Allow a server elsewhere")
    shape = parser.add_argument_group("Shape of the load, over --run-time")
    shape.add_argument(
        "--shape", choices=["", *SHAPES], default="", help="Up to --users, or up to --rate"
    )
    shape.add_argument("--rate", type=float, default=0.0, help="Requests/s that wait for no answer")
    shape.add_argument("--max-in-flight", type=int, default=64, help="Of those, open at a time")
    shape.add_argument("--max-rate", type=float, default=100.0, help="Refuse more than this")
    shape.add_argument("--noise", type=float, default=0.0, help="Users or rate of a noisy tenant")
    shape.add_argument("--noisy-api-key", default="", env_var="NOISY_API_KEY", help="Its key")


@events.init.add_listener  # type: ignore[untyped-decorator]
def set_up(environment: Environment, **_: Any) -> None:
    """Refuse, before anything is sent, what would load a stranger's server or never end."""
    options = environment.parsed_options
    assert options is not None, "Locust parses a command line"
    if not isinstance(environment.runner, WorkerRunner):
        problems = list(mistakes(options, environment.host))
        if problems:
            for problem in problems:
                log.error(problem)
            raise SystemExit(2)
        Bounds(environment, options.max_users, options.max_seconds, options.max_requests)
    if options.lengths:
        try:
            Asker.lengths = Lengths.read(Path(options.lengths))
        except UsageError as error:
            log.error("%s: %s", error.message, error.remedy)
            raise SystemExit(2) from error
    if options.records:
        Records(environment, Path(options.records))
    environment.user_classes = [ChatUser]
    if options.shape or options.rate:
        _shape(environment, options)
    environment.events.test_stop.add_listener(say_throughput)


def mistakes(options: Namespace, host: str | None) -> Iterator[str]:
    """What is wrong with the command line, and what to do about it."""
    shaped, is_open = options.shape or options.rate, options.rate > 0
    noise = options.noise if options.shape == "noisy" else 0
    if host and not is_loopback(host) and not options.allow_remote:
        yield f"--host {host} is not this machine: if it is yours, add --allow-remote"
    if (options.num_users or 0) > options.max_users:
        yield f"--users {options.num_users} is over --max-users {options.max_users}"
    elif not is_open and (options.num_users or 0) + noise > options.max_users:
        yield f"--users with --noise {noise:g} is over --max-users {options.max_users}"
    if (options.run_time or 0) > options.max_seconds:
        yield f"--run-time {options.run_time}s is over --max-seconds {options.max_seconds}"
    if not 0 <= options.base_share <= 1:
        yield f"--base-share must be from 0 to 1 (got {options.base_share})"
    if options.base_share and not options.base_model:
        yield "--base-share needs --base-model"
    if not 0 <= options.leave_share <= 1:
        yield f"--leave-share must be from 0 to 1 (got {options.leave_share})"
    if options.zipf < 0:
        yield f"--zipf must not be negative (got {options.zipf})"
    if not 0 <= options.rate + noise * is_open <= options.max_rate:
        yield f"--rate (and --noise) must be from 0 to --max-rate {options.max_rate:g}"
    if options.max_in_flight < 1:
        yield f"--max-in-flight must be at least 1 (got {options.max_in_flight})"
    if shaped and not options.run_time:
        yield "--shape and --rate need --run-time"
    if options.shape == "noisy" and options.noise <= 0:
        yield "--shape noisy needs --noise, the users or the rate of the noisy tenant"
    if shaped and isinstance(options.processes, int):
        yield "--shape and --rate know one process: leave --processes out"


def _shape(environment: Environment, options: Namespace) -> None:
    """Let the load follow its stages."""
    is_open, is_noisy = options.rate > 0, options.shape == "noisy"
    order = Order(
        level=options.rate if is_open else float(options.num_users or 1),
        seconds=float(options.run_time),
        noise=options.noise if is_noisy else 0.0,
        whole=not is_open,
    )
    course = Course(
        SHAPES[options.shape or "steady"](order), until_saturated=options.shape == "ramp"
    )
    Asker.course, Asker.two_tenants = course, is_noisy
    if is_open:
        users: list[type[Asker]] = [ArrivalUser]
    elif is_noisy:
        ChatUser.fixed_count = int(order.level)  # the first to come and the last to go
        NoisyUser.fixed_count = 0
        users = [ChatUser, NoisyUser]
    else:
        users = [ChatUser]
    environment.user_classes = users
    environment.shape_class = CourseShape(course, users, is_open=is_open)
    environment.shape_class.runner = environment.runner

    def count(context: dict[str, Any], response_length: int, **_: Any) -> None:
        if "answer" in context:
            course.count(response_length)

    environment.events.request.add_listener(count)
    environment.events.test_stopping.add_listener(lambda **_: course.end())
    if options.records:
        target = Path(options.records).with_suffix(".course.json")
        environment.events.test_stop.add_listener(lambda **_: course.write(target))


class Bounds:
    """Stops a test that has too many users or requests or takes too long, whoever started it."""

    def __init__(self, environment: Environment, users: int, seconds: float, requests: int) -> None:
        self._environment = environment
        self._users = users
        self._seconds = seconds
        self._requests = requests
        self._asked = 0
        environment.events.test_start.add_listener(self._started)
        environment.events.spawning_complete.add_listener(self._spawned)
        environment.events.request.add_listener(self._answered)

    def _started(self, **_: Any) -> None:
        gevent.spawn_later(self._seconds, self._stop)

    def _spawned(self, user_count: int, **_: Any) -> None:
        if user_count > self._users:
            log.error("%d users are over --max-users %d: stopping", user_count, self._users)
            self._stop()

    def _answered(self, context: dict[str, Any], **_: Any) -> None:
        self._asked += "answer" in context
        if self._asked == self._requests and "answer" in context and not self._ends:
            log.error("%d requests, as many as --max-requests: stopping", self._asked)
            if Asker.course is not None:
                Asker.course.cut_short = f"as many requests as --max-requests {self._requests}"
            gevent.spawn(self._environment.runner.quit)

    @property
    def _ends(self) -> bool:
        """Whether the test ends by itself: told again, it gives open answers their time anew."""
        return self._environment.runner.state in (STATE_CLEANUP, STATE_STOPPED)

    def _stop(self) -> None:
        if not self._ends:
            self._environment.runner.stop()


class Records:
    """Writes each answer with its times to a file, a JSON line each."""

    def __init__(self, environment: Environment, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")
        environment.events.request.add_listener(self._write)
        environment.events.quit.add_listener(lambda **_: self._file.close())

    def _write(self, context: dict[str, Any], **_: Any) -> None:
        answer = context.get("answer")
        if answer is not None:
            self._file.write(replace(answer, tenant=context["tenant"]).to_json() + "\n")
            self._file.flush()


def say_throughput(environment: Environment, **_: Any) -> None:
    """Log how fast the server wrote, over all users."""
    answers = [entry for (_, kind), entry in environment.stats.entries.items() if kind == "answer"]
    tokens = sum(entry.total_content_length for entry in answers)
    total = environment.stats.total
    seconds = (total.last_request_timestamp or 0) - (total.start_time or 0)
    if seconds > 0:
        log.info("output tokens/s: %.1f (%d tokens in %.1f s)", tokens / seconds, tokens, seconds)
