"""Measures a request to a model on its way through the server, from its arrival to its last byte.

The route tells the meter of `request.state.meter` what it gets to; at the end the middleware makes
a `FinishedRequest` of it, for the metrics, the access log and the trace. All clocks are monotonic.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from typing import Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry import Version
from serve.adapters import Adapters, Lease
from serve.engine import GenerationStats
from serve.finished_request import Asked, FinishedRequest
from serve.metrics import Metrics
from serve.top_labels import UNKNOWN

ENDPOINTS: dict[str, Asked] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/admin/score": "score",
}


class Stopwatch:
    """The seconds of one step; while it runs, those so far. None before."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began: float | None = None
        self._seconds: float | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Runs inside."""
        self._began = self._clock()
        try:
            yield
        finally:
            self._seconds = self._elapsed()

    def start(self) -> None:
        """Runs from now on."""
        self._began = self._clock()

    @property
    def seconds(self) -> float | None:
        """Never negative."""
        return self._elapsed() if self._seconds is None else self._seconds

    def _elapsed(self) -> float | None:
        return None if self._began is None else max(0.0, self._clock() - self._began)


class RequestMeter:
    """What one request takes; the routes tell it. `clock` is monotonic, in seconds."""

    def __init__(self, endpoint: Asked, clock: Callable[[], float] = time.monotonic) -> None:
        self.endpoint = endpoint
        self.model = UNKNOWN
        """From the moment when it is known: the base's id or `name@version`."""
        self.stream = False
        self.status: int | None = None
        """Where what was sent does not tell it: of a stream, and of a client that has gone."""
        self.load: Literal["warm", "cold"] | None = None
        self.load_stages: Mapping[str, float] = {}
        self.resolving, self.admission, self.loading = (Stopwatch(clock) for _ in range(3))
        self._total, self._engine = Stopwatch(clock), Stopwatch(clock)
        self._total.start()
        self._handed_over: float | None = None
        self._generations: list[GenerationStats] = []

    async def lease(self, stack: AsyncExitStack, adapters: Adapters, version: Version) -> Lease:
        """Have a version held until `stack` ends. Raises: what Adapters.lease raises."""
        with self.loading.running():
            holding = adapters.lease(version, self.resolving.seconds)
            lease = await stack.enter_async_context(holding)
        self.load, self.load_stages = lease.load, lease.stages
        return lease

    def hand_over(self) -> None:
        """From now on the engine has it."""
        self._handed_over = self._total.seconds
        self._engine.start()

    def generated(self, stats: GenerationStats) -> None:
        """One of its generations has ended."""
        self._generations.append(stats)

    @property
    def prompt_tokens(self) -> int:
        """As `usage` has them: a prompt with several answers counts once."""
        return sum(each.prompt_tokens for each in self._generations if each.choice == 0)

    @property
    def output_tokens(self) -> int:
        """Of all generations so far."""
        return sum(each.output_tokens for each in self._generations)

    def finish(self, status: int, tenant: str) -> FinishedRequest:
        """What it took; `status` is the one that was sent."""
        firsts = [each.ttft_seconds for each in self._generations if each.ttft_seconds is not None]
        ttft = None
        if firsts and self._handed_over is not None and self.endpoint != "score":
            ttft = self._handed_over + max(0.0, min(firsts))
        return FinishedRequest(
            endpoint=self.endpoint,
            model=self.model,
            tenant=tenant,
            status=self.status or status,
            stream=self.stream,
            seconds=self._total.seconds or 0.0,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=sum(e.cached_tokens for e in self._generations if e.choice == 0),
            output_tokens=self.output_tokens,
            finish_reasons=tuple(each.finish_reason for each in self._generations),
            ttft_seconds=ttft,
            admission_seconds=self.admission.seconds,
            scheduler_seconds=max((e.queue_seconds for e in self._generations), default=0.0),
            load=self.load,
            load_seconds=self.loading.seconds or 0.0,
            load_stages=self.load_stages,
            engine_seconds=self._engine.seconds,
            generations=tuple(self._generations),
        )


class MeterMiddleware:
    """Gives each request to a model its meter, and counts every request that was turned away."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; what it took is in `scope["state"]["finished"]` afterwards."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        endpoint = ENDPOINTS.get(scope["path"]) if scope["method"] == "POST" else None
        meter = None if endpoint is None else RequestMeter(endpoint)
        state["meter"] = meter
        status = 500

        async def seeing(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, seeing)
        finally:
            refusal = state.get("refusal") if status >= 400 else None
            if refusal == "auth" or (refusal is not None and meter is not None):
                self.metrics.refused(refusal)
            if meter is not None:
                principal = state.get("principal")
                tenant = UNKNOWN if principal is None else principal.tenant
                finished = state["finished"] = meter.finish(status, tenant)
                self.metrics.count(finished)
