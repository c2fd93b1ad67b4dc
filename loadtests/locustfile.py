"""Streaming chat users against any OpenAI-compatible server.

    locust -f loadtests/locustfile.py --host http://127.0.0.1:8000 --headless \\
        --users 8 --spawn-rate 8 --run-time 1m --adapters opl,titulares

Each user asks, reads the answer to its end, and asks again. Locust's table then has, by model,
`answer` (milliseconds for the whole answer; its size is in tokens), `TTFT` (to the first token)
and `ITL` (between tokens); the output tokens/s of the whole run are logged at the end.
Without --adapters and --base-model the adapters are those that the server lists.
"""

import itertools
import logging
import random
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import gevent
import httpx
from locust import User, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import WorkerRunner

from loadtests.answer import Answer, BrokenStream
from loadtests.chat import ask, connect
from loadtests.traffic import Zipf, chat_request, is_loopback

log = logging.getLogger("loadtests")

FAILURE_PAUSE_SECONDS = 0.5
"""After a failed request, so that a server that refuses is not stormed."""


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
    group.add_argument("--whole", action="store_true", help="Answers of exactly that length")
    group.add_argument("--think-seconds", type=float, default=0.0, help="Pause between requests")
    group.add_argument("--seed", type=int, default=0, help="Of prompts and models")
    group.add_argument("--api-key", default="", env_var="OPENAI_API_KEY", help="Sent as a bearer")
    group.add_argument("--records", default="", help="File to write each answer to, as JSON lines")
    group.add_argument("--max-users", type=int, default=64, help="Refuse more users than this")
    group.add_argument("--max-seconds", type=int, default=600, help="Stop a test after this time")
    group.add_argument("--allow-remote", action="store_true", help="Allow a server elsewhere")


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
        Bounds(environment, options.max_users, options.max_seconds)
    if options.records:
        Records(environment, Path(options.records))
    environment.events.test_stop.add_listener(say_throughput)


def mistakes(options: Namespace, host: str | None) -> Iterator[str]:
    """What is wrong with the command line, and what to do about it."""
    if host and not is_loopback(host) and not options.allow_remote:
        yield f"--host {host} is not this machine: if it is yours, add --allow-remote"
    if (options.num_users or 0) > options.max_users:
        yield f"--users {options.num_users} is over --max-users {options.max_users}"
    if (options.run_time or 0) > options.max_seconds:
        yield f"--run-time {options.run_time}s is over --max-seconds {options.max_seconds}"
    if not 0 <= options.base_share <= 1:
        yield f"--base-share must be from 0 to 1 (got {options.base_share})"
    if options.base_share and not options.base_model:
        yield "--base-share needs --base-model"
    if options.zipf < 0:
        yield f"--zipf must not be negative (got {options.zipf})"


class Bounds:
    """Stops a test that has too many users or takes too long, whoever started it and how."""

    def __init__(self, environment: Environment, users: int, seconds: float) -> None:
        self._environment = environment
        self._users = users
        self._seconds = seconds
        environment.events.test_start.add_listener(self._started)
        environment.events.spawning_complete.add_listener(self._spawned)

    def _started(self, **_: Any) -> None:
        gevent.spawn_later(self._seconds, self._environment.runner.stop)

    def _spawned(self, user_count: int, **_: Any) -> None:
        if user_count > self._users:
            log.error("%d users are over --max-users %d: stopping", user_count, self._users)
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
            self._file.write(answer.to_json() + "\n")
            self._file.flush()


class ChatUser(User):  # type: ignore[misc]
    """Asks, reads the answer as it streams, and asks again."""

    _numbers: ClassVar[Iterator[int]] = itertools.count()

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        options = environment.parsed_options
        assert options is not None, "Locust parses a command line"
        self._options = options
        self._number = next(self._numbers)
        self._random = random.Random(f"{options.seed}/{self._number}")
        self._adapters: Zipf | None = None
        self._client = connect(self.host or "", options.api_key)

    def wait_time(self) -> float:
        """Seconds between an answer and the next request."""
        seconds: float = self._options.think_seconds
        return seconds

    def on_start(self) -> None:
        """Learn the adapters. The host may have been typed into the web page: look at it again."""
        if not is_loopback(self.host or "") and not self._options.allow_remote:
            self._give_up(f"{self.host} is not this machine: add --allow-remote if it is yours")
        names = [name for name in self._options.adapters.split(",") if name]
        if not names and not self._options.base_model:
            names = self._listed()
        if names:
            self._adapters = Zipf(names, self._options.zipf)

    def on_stop(self) -> None:
        """Close the connection."""
        self._client.close()

    @task  # type: ignore[untyped-decorator]
    def chat(self) -> None:
        """One request; Locust's statistics learn its times, or its failure."""
        options = self._options
        body = chat_request(
            self._model(), self._random, max_tokens=options.max_tokens, whole=options.whole
        )
        answer = ask(self._client, body)
        self._report(answer)
        if answer.error is not None:
            gevent.sleep(FAILURE_PAUSE_SECONDS)

    def _report(self, answer: Answer) -> None:
        def fire(kind: str, seconds: float, **fields: Any) -> None:
            event = {"exception": None, "context": {}, "response_length": 0} | fields
            self.environment.events.request.fire(
                request_type=kind, name=answer.model, response_time=seconds * 1000, **event
            )

        fire(
            "answer",
            time.perf_counter() - answer.started,
            response_length=answer.tokens,
            exception=None if answer.error is None else BrokenStream(answer.error),
            context={"answer": answer},
        )
        if answer.ttft is not None:
            fire("TTFT", answer.ttft)
        for gap in answer.gaps:
            fire("ITL", gap)

    def _model(self) -> str:
        options, adapters = self._options, self._adapters
        base: str = options.base_model
        if adapters is None or (base and self._random.random() < options.base_share):
            return base
        if options.pinned:
            return adapters.names[self._number % len(adapters.names)]
        return adapters.draw(self._random)

    def _listed(self) -> list[str]:
        try:
            response = self._client.get("/v1/models").raise_for_status()
            names = [model["id"] for model in response.json()["data"] if model.get("parent")]
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            self._give_up(f"cannot read the models of {self.host}: {error}")
        if not names:
            self._give_up("no adapter to ask: name some with --adapters, or --base-model")
        return names

    def _give_up(self, reason: str) -> NoReturn:
        log.error(reason)
        self.environment.runner.quit()
        raise StopUser


def say_throughput(environment: Environment, **_: Any) -> None:
    """Log how fast the server wrote, over all users."""
    answers = [entry for (_, kind), entry in environment.stats.entries.items() if kind == "answer"]
    tokens = sum(entry.total_content_length for entry in answers)
    total = environment.stats.total
    seconds = (total.last_request_timestamp or 0) - (total.start_time or 0)
    if seconds > 0:
        log.info("output tokens/s: %.1f (%d tokens in %.1f s)", tokens / seconds, tokens, seconds)
