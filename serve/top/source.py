"""Where `lorikeet top` looks: `/metrics`, `/ready` and, with an admin's key, `/admin/adapters`."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Self

import httpx

from registry import UsageError
from serve.top.errors import NotShown, ServerAway
from serve.top.scrape import Scrape

TIMEOUT_SECONDS = 5.0
STATES_SECONDS = 5.0
"""The adapters are asked for no more often: that reads the registry, and is a line in the log."""
STATES_SHARE = 0.1
"""Of the time that may be spent on it: with a thousand adapters one answer takes a while."""


@dataclass(frozen=True, slots=True)
class Residency:
    """Where an adapter version is, as `/admin/adapters` tells it."""

    state: str
    leases: int | None = 0
    reason: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Look:
    """What a server said at one time.

    `status` is `ready` or why it is not; `clock` is the server's own, in seconds since 1970;
    `adapters` are its versions, None where we may not ask.
    """

    scrape: Scrape
    status: str | None
    base: str | None
    clock: float
    adapters: Mapping[str, Residency] | None


@dataclass
class Source:
    """The server at `url`, with or without `/v1`; `metrics_url` is that of `--metrics-port`.

    `transport` is what speaks HTTP, for tests.

    Raises: UsageError for what is no address or no key.
    """

    url: str
    api_key: str = ""
    metrics_url: str = ""
    transport: httpx.AsyncBaseTransport | None = None
    _states: Mapping[str, Residency] | None = field(default=None, init=False)
    _due: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.url = _address(self.url).removesuffix("/v1")
        self.metrics_url = _address(self.metrics_url or self.url)
        if not self.metrics_url.endswith("/metrics"):
            self.metrics_url += "/metrics"
        if not (self.api_key.isascii() and self.api_key.isprintable()):
            raise UsageError("the API key has letters that no key has")
        headers = {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        self._client = httpx.AsyncClient(
            headers=headers, timeout=TIMEOUT_SECONDS, transport=self.transport
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._client.aclose()

    async def look(self) -> Look:
        """Ask it now. Raises: ServerAway, NotShown."""
        try:
            answer = await self._get(self.metrics_url)
            at = time.monotonic()
            _check(answer, self.metrics_url)
            scrape = Scrape.parse(answer.text, at)
            if not any(name.startswith("lorikeet_") for name in scrape.declared):
                raise ValueError("no metric of Lorikeet")
            ready = _object((await self._get(f"{self.url}/ready")).json())
            adapters = await self._adapters()
        except ValueError as error:
            raise ServerAway(
                f"{self.url} does not answer as a Lorikeet server does",
                remedy="name it with --url",
            ) from error
        status, base = ready.get("status"), ready.get("base")
        return Look(
            scrape,
            status if isinstance(status, str) else None,
            base if isinstance(base, str) else None,
            _clock(answer),
            adapters,
        )

    async def _adapters(self) -> Mapping[str, Residency] | None:
        """The last answer, while it is fresh enough for what it costs."""
        started = time.monotonic()
        if started < self._due:
            return self._states
        answer = await self._get(f"{self.url}/admin/adapters")
        took = time.monotonic() - started
        self._due = time.monotonic() + max(STATES_SECONDS, took / STATES_SHARE)
        if answer.status_code == 200:
            listed = _object(answer.json()).get("data")
            self._states = {
                str(one["id"]): _residency(one)
                for one in (listed if isinstance(listed, list) else ())
                if isinstance(one, dict) and "id" in one
            }
        elif answer.status_code < 500:  # no admin's key: asking again would fill its log
            self._states, self._due = None, float("inf")
        return self._states

    async def _get(self, url: str) -> httpx.Response:
        try:
            return await self._client.get(url)
        except httpx.TimeoutException as error:
            self._forget()
            raise ServerAway(f"{self.url} does not answer within {TIMEOUT_SECONDS:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            self._forget()
            raise ServerAway(
                f"no server answers on {url}",
                remedy="start one with `lorikeet serve`, or name it with --url",
            ) from error

    def _forget(self) -> None:
        """Who comes back may be another."""
        self._states, self._due = None, 0.0


def _address(url: str) -> str:
    try:
        parsed = httpx.URL(url)
        valid = parsed.scheme in ("http", "https") and bool(parsed.host)
    except httpx.InvalidURL:
        valid = False
    if not valid:
        raise UsageError(f"{url!r} is no address", remedy="write http://127.0.0.1:8000")
    return url.rstrip("/")


def _check(answer: httpx.Response, url: str) -> None:
    if answer.status_code in (401, 403):
        raise NotShown(
            "the server shows its metrics to admins only",
            remedy="put an admin's key into OPENAI_API_KEY: lorikeet keys create --tenant ops "
            "--admin makes one",
        )
    if answer.status_code == 404:
        raise NotShown(
            f"there are no metrics at {url}",
            remedy="name their own port, where the server has one: "
            "--metrics-url http://127.0.0.1:PORT",
        )
    if not answer.is_success:
        raise ServerAway(f"{url} answers {answer.status_code}")


def _clock(answer: httpx.Response) -> float:
    """The server's, for the age of what it started; ours, where it does not say."""
    try:
        return parsedate_to_datetime(answer.headers["date"]).timestamp()
    except (KeyError, ValueError):
        return time.time()


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value


def _residency(version: Mapping[str, Any]) -> Residency:
    leases, reason = version.get("leases"), version.get("reason")
    aliases = version.get("aliases")
    return Residency(
        str(version.get("state", "unknown")),
        leases if isinstance(leases, int) else 0,
        None if reason is None else str(reason),
        tuple(map(str, aliases)) if isinstance(aliases, list) else (),
    )
