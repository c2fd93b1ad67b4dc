"""Asking a server: what it answers, refuses, and that it is away."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from exposition import metrics

from registry import Registry, UsageError
from serve.top import source as sources
from serve.top.errors import NotShown, ServerAway
from serve.top.source import Residency, Source

pytestmark = pytest.mark.anyio


def fake(
    answers: dict[str, httpx.Response | Exception], **options: Any
) -> tuple[Source, list[str]]:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        found = answers[request.url.path]
        if isinstance(found, Exception):
            raise found
        return found

    options = {"url": "http://test/v1", "api_key": "", **options}
    return Source(transport=httpx.MockTransport(answer), **options), asked


def answers(**changed: httpx.Response | Exception) -> dict[str, httpx.Response | Exception]:
    return {
        "/metrics": httpx.Response(200, text=metrics(1)),
        "/ready": httpx.Response(503, json={"status": "draining"}),
        "/admin/adapters": httpx.Response(403, json={}),
    } | {f"/{name.replace('_', '/')}": answer for name, answer in changed.items()}


async def test_a_real_server_with_keys(
    run: Callable[..., Any], free_server: Callable[..., Any], registry: Registry, publish: Any
) -> None:
    publish("opl")
    _, admin = registry.keys.create("ops", admin=True)
    _, other = registry.keys.create("news")
    async with run() as running, free_server(running.app) as url:
        async with Source(f"{url}/v1", admin) as source:
            look = await source.look()
        assert look.adapters is not None
        assert {name: one.state for name, one in look.adapters.items()} == {"opl@1": "cold"}
        assert look.status == "ready"
        assert look.scrape.total("lorikeet_engine_up") == 1
        for key in ("", other):
            async with Source(url, key) as source:
                with pytest.raises(NotShown, match="admins only"):
                    await source.look()


async def test_where_no_admin_is_asked_states_are_unknown_and_not_asked_for_again() -> None:
    source, asked = fake(answers())
    async with source:
        for _ in range(2):
            look = await source.look()
    assert look.adapters is None
    assert look.status == "draining"
    assert asked.count("http://test/admin/adapters") == 1
    assert asked.count("http://test/metrics") == 2


async def test_adapters_are_asked_for_less_often_than_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listed = {"data": [{"id": "opl@1", "state": "loaded", "leases": 2, "reason": None}, 7]}
    source, asked = fake(answers(admin_adapters=httpx.Response(200, json=listed)))
    async with source:
        assert (await source.look()).adapters == {"opl@1": Residency("loaded", 2)}
        assert (await source.look()).adapters == {"opl@1": Residency("loaded", 2)}
        assert asked.count("http://test/admin/adapters") == 1
        monkeypatch.setattr(sources, "STATES_SECONDS", 0.0)
        source._due = 0.0
        await source.look()
    assert asked.count("http://test/admin/adapters") == 2


async def test_metrics_on_a_port_of_their_own() -> None:
    source, asked = fake(answers(), metrics_url="http://test:9000")
    async with source:
        await source.look()
    assert asked[:2] == ["http://test:9000/metrics", "http://test/ready"]
    source, _ = fake(answers(metrics=httpx.Response(404)))
    async with source:
        with pytest.raises(NotShown) as refused:
            await source.look()
    assert "--metrics-url" in str(refused.value.remedy)


@pytest.mark.parametrize(
    "changed",
    [
        {"metrics": httpx.ConnectError("refused")},
        {"metrics": httpx.ReadTimeout("slow")},
        {"metrics": httpx.RemoteProtocolError("nonsense")},
        {"metrics": httpx.Response(503)},
        {"metrics": httpx.Response(200, text="<html>")},
        {"metrics": httpx.Response(200, text="lorikeet_ready yes")},
        {"ready": httpx.Response(200, text="ok")},
        {"ready": httpx.Response(200, json=[])},
        {"admin_adapters": httpx.ReadError("gone")},
    ],
    ids=str,
)
async def test_what_may_pass_is_away(changed: dict[str, Any]) -> None:
    source, _ = fake(answers(**changed))
    async with source:
        with pytest.raises(ServerAway):
            await source.look()


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://", "http://a:b:c", "\n"])
async def test_what_is_no_address_is_wrong_usage(url: str) -> None:
    with pytest.raises(UsageError, match="no address"):
        Source(url)


async def test_what_is_no_key_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="key"):
        Source("http://test", "schlüssel")
