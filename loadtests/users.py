"""Who asks: users that wait for an answer before they ask again, and arrivals that do not wait."""

import itertools
import logging
import random
import time
from collections import deque
from collections.abc import Iterator
from typing import ClassVar, NoReturn

import gevent
import httpx
from gevent import GreenletExit
from gevent.event import Event
from locust import User, task
from locust.env import Environment
from locust.exception import StopUser

from loadtests.answer import Answer, BrokenStream
from loadtests.arrivals import Arrival, arrivals
from loadtests.chat import ask, connect
from loadtests.course import Course
from loadtests.lengths import Lengths
from loadtests.traffic import Zipf, chat_request, is_loopback

log = logging.getLogger("loadtests")

FAILURE_PAUSE_SECONDS = 0.5
"""After a failed request, so that a server that refuses is not stormed."""
QUIET, NOISY = "quiet", "noisy"
"""Tenants, where there are two."""
LEAVE_PIECES = 3
"""What a user has read who leaves midway."""


class Asker(User):  # type: ignore[misc]
    """What both kinds share: the models, the bodies, and how an answer is reported."""

    abstract = True
    course: ClassVar[Course | None] = None
    """The shape's, where there is one."""
    lengths: ClassVar[Lengths | None] = None
    """Of --lengths."""
    two_tenants: ClassVar[bool] = False
    _numbers: ClassVar[Iterator[int]] = itertools.count()

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        options = environment.parsed_options
        assert options is not None, "Locust parses a command line"
        self._options = options
        self._number = next(Asker._numbers)
        self._random = random.Random(f"{options.seed}/{self._number}")
        self._adapters: Zipf | None = None

    def on_start(self) -> None:
        """Learn the adapters. The host may have been typed into the web page: look at it again."""
        if not is_loopback(self.host or "") and not self._options.allow_remote:
            self._give_up(f"{self.host} is not this machine: add --allow-remote if it is yours")
        names = [name for name in self._options.adapters.split(",") if name]
        if not names and not self._options.base_model:
            names = self._listed()
        if names:
            self._adapters = Zipf(names, self._options.zipf)
        if self.course is not None:
            self.course.begin()

    def _ask(self, client: httpx.Client, tenant: str, due: float | None = None) -> Answer:
        """One request; Locust's statistics learn its times, or its failure."""
        options, source = self._options, self._random
        length = None if self.lengths is None else self.lengths.draw(source)
        body = chat_request(
            self._model(),
            source,
            max_tokens=options.max_tokens if length is None else length.output,
            whole=options.whole,
            prompt_tokens=None if length is None else length.prompt,
        )
        leaves = options.leave_share and source.random() < options.leave_share
        try:
            answer = ask(client, body, due=due, leave_after=LEAVE_PIECES if leaves else None)
        except GreenletExit:  # the run is over, and its time for answers under way too
            started = time.perf_counter() if due is None else due
            self._report(Answer(body["model"], started, error="cut off when the run ended"), tenant)
            raise
        self._report(answer, tenant)
        return answer

    def _report(self, answer: Answer, tenant: str) -> None:
        def fire(kind: str, seconds: float, **fields: object) -> None:
            event = {"exception": None, "context": {}, "response_length": 0} | fields
            self.environment.events.request.fire(
                request_type=kind, name=answer.model, response_time=seconds * 1000, **event
            )

        fire(
            "answer",
            time.perf_counter() - answer.started,
            response_length=answer.tokens,
            exception=None if answer.error is None else BrokenStream(answer.error),
            context={"answer": answer, "tenant": tenant},
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
            with connect(self.host or "", self._options.api_key) as client:
                response = client.get("/v1/models").raise_for_status()
            models = response.json()["data"]
            names = [model["id"] for model in models if model.get("parent")]
            names = names or [model["id"] for model in models]
        except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._give_up(f"cannot read the models of {self.host}: {error}")
        if not names:
            self._give_up(
                f"{self.host} lists no model: name some with --adapters (--models of "
                "loadtests.load), or --base-model"
            )
        return names

    def _give_up(self, reason: str) -> NoReturn:
        log.error(reason)
        self.environment.process_exit_code = 2
        self.environment.runner.quit()
        raise StopUser


class ChatUser(Asker):
    """Asks, reads the answer as it streams, and asks again."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._tenant = QUIET if self.two_tenants else ""
        self._client = connect(self.host or "", self._key())

    def wait_time(self) -> float:
        """Seconds between an answer and the next request."""
        seconds: float = self._options.think_seconds
        return seconds

    def on_stop(self) -> None:
        """Close the connection."""
        self._client.close()

    @task  # type: ignore[untyped-decorator]
    def chat(self) -> None:
        """One request."""
        if self._ask(self._client, self._tenant).error is not None:
            gevent.sleep(FAILURE_PAUSE_SECONDS)

    def _key(self) -> str:
        key: str = self._options.api_key
        return key


class NoisyUser(ChatUser):
    """One of the noisy tenant's, with that one's API key."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._tenant = NOISY

    def _key(self) -> str:
        key: str = self._options.noisy_api_key or self._options.api_key
        return key


class ArrivalUser(Asker):
    """Sends requests when they are due, whether or not earlier ones were answered.

    At most --max-in-flight are open; what is due beyond that waits for a place, and its latencies
    count from when it was due. What has not been sent when the run ends is reported as failed.
    """

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._waiting: deque[Arrival] = deque()
        self._arrived = Event()
        self._senders: list[gevent.Greenlet] = []
        self._idle = 0
        self._began = 0.0
        self._next: Arrival | None = None
        self._ended = False

    def on_start(self) -> None:
        """As all users, then draw the first arrival."""
        super().on_start()
        assert self.course is not None, "an open loop has stages"
        self._began = self.course.begin()
        self._drawn = arrivals(self.course.stages, str(self._options.seed))
        self._next = next(self._drawn, None)

    def wait_time(self) -> float:
        """Seconds to the next arrival; a second where there is none, until the shape ends."""
        if self._next is None:
            return 1.0
        return max(0.0, self._began + self._next.seconds - time.perf_counter())

    @task  # type: ignore[untyped-decorator]
    def arrive(self) -> None:
        """Hand what is due to those who send."""
        self._collect()
        wanted = min(len(self._waiting) - self._idle, self._options.max_in_flight)
        for _ in range(min(wanted, self._options.max_in_flight - len(self._senders))):
            self._senders.append(gevent.spawn(self._send))
        self._arrived.set()

    def on_stop(self) -> None:
        """Let open answers end, as long as users have for that; tell of what was not sent."""
        self._ended = True
        self._collect()
        self._arrived.set()
        unsent = list(self._waiting)
        self._waiting.clear()
        reason = f"not sent: all {self._options.max_in_flight} places were taken"
        for arrival in unsent:
            answer = Answer(self._model(), self._began + arrival.seconds, error=reason)
            self._report(answer, self._tenant_of(arrival))
        try:
            gevent.joinall(self._senders, timeout=self.environment.stop_timeout or 0)
        finally:  # Locust's own time for that may be over first
            gevent.killall(self._senders)

    def _collect(self) -> None:
        now = time.perf_counter() - self._began
        while self._next is not None and self._next.seconds <= now:
            self._waiting.append(self._next)
            self._next = next(self._drawn, None)

    def _send(self) -> None:
        """One place: takes what waits longest, until the run ends."""
        options = self._options
        keys = {False: options.api_key, True: options.noisy_api_key or options.api_key}
        clients = {noise: connect(self.host or "", key) for noise, key in keys.items()}
        try:
            while not self._ended:
                if not self._waiting:
                    self._arrived.clear()
                    self._idle += 1
                    self._arrived.wait()
                    self._idle -= 1
                    continue
                arrival = self._waiting.popleft()
                due = self._began + arrival.seconds
                self._ask(clients[arrival.is_noise], self._tenant_of(arrival), due)
        finally:
            for client in clients.values():
                client.close()

    def _tenant_of(self, arrival: Arrival) -> str:
        if not self.two_tenants:
            return ""
        return NOISY if arrival.is_noise else QUIET
