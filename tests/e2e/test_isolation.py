"""Neither another tenant, nor an adapter, nor a flip of an alias is felt, on the real engine."""

import io
import random
import shutil
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from adapter_edit import Edit
from broken_adapters import BROKEN

from registry import Registry, RegistrySettings

ARCHIVES_OWN = {
    *("file-symlink", "file-special", "weights-pickle"),
    *("size-limit", "config-rank-limit"),
}
"""In an archive links have words of their own and a stray pickle is passed over; the server's
limits are wider than those that the corpus is made for."""
FILES = ("adapter_config.json", "adapter_model.safetensors")


@pytest.fixture(scope="module")
def served(serve: Any) -> Iterator[Any]:
    with serve() as running:
        yield running


@pytest.fixture
def registry(served: Any) -> Iterator[Registry]:
    with Registry.open(RegistrySettings(home=served.home, database_url=None)) as opened:
        yield opened


def upload(served: Any, name: str, folder: Path) -> httpx.Response:
    files = [("file", (n, (folder / n).read_bytes())) for n in FILES if (folder / n).exists()]
    return served.client.post(f"/admin/adapters/{name}", files=files)  # type: ignore[no-any-return]


def cached(answer: httpx.Response) -> int:
    details = answer.json()["usage"]["prompt_tokens_details"] or {}
    return int(details.get("cached_tokens") or 0)


def test_the_prefix_cache_is_a_tenants_own(served: Any, registry: Registry) -> None:
    _, ours = registry.keys.create("ours")
    _, ours_too = registry.keys.create("ours")
    _, theirs = registry.keys.create("theirs")
    content = "A long beginning that is worth keeping. " * 60
    body = served.body(served.base.id, messages=[{"role": "user", "content": content}])

    def ask(secret: str) -> int:
        headers = {"authorization": f"Bearer {secret}"}
        answer = served.client.post("/v1/chat/completions", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return cached(answer)

    assert ask(ours) == 0
    assert ask(ours) > 100
    assert ask(ours_too) > 100
    assert ask(theirs) == 0
    for field in ("cache_salt", "priority", "request_id"):
        refused = served.ask(served.base.id, **{field: "x"})
        assert refused.status_code == 400


def test_nothing_listens_but_on_loopback(served: Any) -> None:
    """CVE-2025-32444, CVE-2025-47277, CVE-2025-30165: engine ports that strangers could reach."""
    process = psutil.Process(served.pid)
    listening = [
        connection.laddr
        for member in (process, *process.children(recursive=True))
        for connection in member.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert int(served.url.rpartition(":")[2]) in {address.port for address in listening}
    assert {address.ip for address in listening} <= {"127.0.0.1", "::1"}


def test_a_flip_under_load_mixes_nothing(
    served: Any, registry: Registry, make_adapter: Any, tmp_path: Path
) -> None:
    for seed in (21, 22):
        made = make_adapter(tmp_path / str(seed), served.base, seed=seed, scale=0.3)
        registry.publish(made, "flip", base=served.base)
    tokens = {"max_tokens": 24}
    truth = {
        f"flip@{number}": served.ask(f"flip@{number}", **tokens).json()["choices"][0]["message"]
        for number in (1, 2)
    }
    assert truth["flip@1"] != truth["flip@2"]
    registry.promote("flip", 1, force="a test")
    stop = threading.Event()

    def flip() -> None:
        draw = random.Random(0)
        while not stop.wait(0.05):
            registry.promote("flip", draw.choice((1, 2)), force="a test")

    def ask(_: int) -> str:
        answer = served.ask("flip", **tokens)
        assert answer.status_code == 200, answer.text
        model: str = answer.json()["model"]
        assert answer.json()["choices"][0]["message"] == truth[model]
        digest = registry.get(model).digest.removeprefix("sha256:")
        assert answer.headers["x-lorikeet-model"] == f"{model}+{digest}"
        return model

    flipping = threading.Thread(target=flip)
    flipping.start()
    with ThreadPoolExecutor(8) as pool:
        models = list(pool.map(ask, range(120)))
    stop.set()
    flipping.join()
    assert set(models) == {"flip@1", "flip@2"}


def test_broken_adapters_are_refused_and_nobody_feels_them(
    served: Any, make_adapter: Any, tmp_path: Path
) -> None:
    """The whole corpus, uploaded to the running server: each is refused with its own message."""
    before = served.answers()
    loads = served.metric("lorikeet_adapter_load_seconds_count")
    messages = set()
    for kind, code, breaker in BROKEN:
        folder = make_adapter(tmp_path / "broken", served.base)
        breaker(Edit(folder))
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(folder, "adapter")
        shutil.rmtree(folder)
        files = {"file": ("adapter.tar", archive.getvalue())}
        answer = served.client.post("/admin/adapters/broken", files=files)
        assert answer.status_code == 400, (kind, answer.text)
        error = answer.json()["error"]
        assert error["code"] == "adapter_refused", (kind, error)
        if code not in ARCHIVES_OWN:
            assert f"{code}: " in error["message"], (kind, error)
        assert str(served.home) not in error["message"]
        messages.add(error["message"])
    assert len(messages) >= 40
    assert served.client.get("/v1/models/broken").status_code == 404
    assert served.metric("lorikeet_adapter_load_seconds_count") == loads
    assert served.answers() == before


def test_an_adapter_that_overflows_is_quarantined_and_hurts_nobody(
    served: Any, registry: Registry, make_adapter: Any, tmp_path: Path
) -> None:
    """Every weight is finite and small enough for the preflight; the products are not."""
    bad = make_adapter(tmp_path / "bad", served.base, rank=64, alpha=64_000, scale=12_000, seed=3)
    assert upload(served, "overflow", bad).status_code == 201
    before = served.answers()
    with ThreadPoolExecutor(8) as pool:
        others = [pool.submit(served.ask, model, max_tokens=12) for model in served.models * 2]
        poison = [pool.submit(served.ask, "overflow") for _ in range(4)]
        for asked in poison:
            answer = asked.result()
            assert answer.status_code == 503
            assert "choices" not in answer.json()
        for model, asked in zip(served.models * 2, others, strict=True):
            assert asked.result().json()["choices"][0]["message"]["content"] == before[model]
    assert served.answers() == before
    again = served.ask("overflow")
    assert again.json()["error"]["code"] == "adapter_quarantined"
    assert "not finite" in (registry.get("overflow").quarantine or "")
    assert served.metric("lorikeet_engine_restarts_total") == 0
