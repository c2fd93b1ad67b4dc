"""`/metrics` on a port of its own, and on the server's where there is none."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from registry import Registry
from serve.child import child_server, free_port
from serve.metrics_server import metrics_app, serving_metrics
from serve.server import bind
from serve.settings import ServeSettings

pytestmark = pytest.mark.anyio


async def test_the_own_port_has_metrics_without_keys_and_nothing_else(
    run: Any, registry: Registry
) -> None:
    _, ops = registry.keys.create("ops", admin=True)
    async with run(metrics_port=9100) as running:
        running.client.headers["authorization"] = f"Bearer {ops}"
        assert (await running.client.get("/metrics")).status_code == 404
        await running.chat("tiny")
        transport = httpx.ASGITransport(app=metrics_app(running.service.scrape))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.get("/metrics")
            assert answer.status_code == 200
            assert 'lorikeet_tenant_requests_total{status="200",tenant="ops"} 1.0' in answer.text
            for path in "/v1/models", "/admin/status", "/":
                assert (await client.get(path)).status_code == 404


async def test_it_listens_until_the_server_ends(run: Any) -> None:
    async with run(metrics_port=9100) as running:
        with bind("127.0.0.1", 0) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/metrics"
            async with httpx.AsyncClient(trust_env=False) as client:
                async with serving_metrics(running.service.scrape, listener):
                    assert "lorikeet_ready 1.0" in (await client.get(url)).text
                with pytest.raises(httpx.TransportError):
                    await client.get(url)


def test_one_port_for_both_is_refused() -> None:
    with pytest.raises(ValidationError, match="--metrics-port and --port are both 8000"):
        ServeSettings(metrics_port=8000)


def test_a_real_server_where_somebody_shares_metrics_through_files(
    home: Path, tiny_base: Path, tmp_path: Path
) -> None:
    """PROMETHEUS_MULTIPROC_DIR: what others left there is not ours, and we leave nothing."""
    shared = tmp_path / "shared"
    shared.mkdir()
    env = {"LORIKEET_HOME": str(home), "PROMETHEUS_MULTIPROC_DIR": str(shared)}
    port = free_port()
    options = ["--engine", "echo", "--base", str(tiny_base), "--metrics-port", str(port)]
    with child_server(options, tmp_path / "server.log", env=env) as server:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "Good evening"}]}
        asked = httpx.post(f"{server.url}/v1/chat/completions", json=body, trust_env=False)
        assert asked.status_code == 200
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
        assert httpx.get(f"{server.url}/metrics", trust_env=False).status_code == 404
    assert 'lorikeet_output_tokens_total{model="tiny"} 3.0' in text
    assert list(shared.iterdir()) == []
    assert f"Metrics on http://127.0.0.1:{port}/metrics" in (tmp_path / "server.log").read_text()
