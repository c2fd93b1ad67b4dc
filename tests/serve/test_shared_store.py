"""Serving from a shared store: fetched, held while loaded, and what is here outlives the store."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from object_store import Store

from registry import DiskFull, Registry, RegistrySettings, Version
from registry.finetuning.objects import FINE_TUNE, File
from serve.engine.echo import EchoEngine

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("store", ["file"], indirect=True)]

WEIGHTS = "adapter_model.safetensors"
Publish = Callable[..., Version]


@pytest.fixture
def publish(store: Store, publish: Publish) -> Publish:
    """Publish on the machine of `registry`, in the shared store."""
    return publish


@pytest.fixture
def there(registry: Registry, tmp_path: Path) -> Iterator[Registry]:
    """The registry of another machine, that serves."""
    settings = RegistrySettings(home=tmp_path / "there", database_url=registry.settings.url)
    with Registry.open(settings) as opened:
        yield opened


def blob_of(version: Version) -> str:
    sha256 = version.manifest.files[WEIGHTS].sha256
    return f"sha256/{sha256[:2]}/{sha256}"


async def test_a_load_begins_with_its_files(publish: Publish, there: Registry, run: Any) -> None:
    version = publish("opl")
    async with run(registry=there) as running:
        assert (await running.chat("opl")).status_code == 200
        path = there.get("opl").path
        assert path.is_relative_to(there.settings.cache)
        assert (path / WEIGHTS).stat().st_size == version.manifest.files[WEIGHTS].bytes
        samples = (await running.client.get("/metrics")).text.splitlines()
    assert 'lorikeet_adapter_load_seconds_count{stage="fetch"} 1.0' in samples


async def test_what_is_loaded_is_held_and_what_is_not_makes_room(
    publish: Publish, registry: Registry, run: Any, tmp_path: Path
) -> None:
    """A cache with room for two."""
    sizes = [publish(name, seed=seed).manifest.total_bytes for seed, name in enumerate("abcd")]
    settings = RegistrySettings(
        home=tmp_path / "small",
        database_url=registry.settings.url,
        cache_bytes=max(sizes) * 2,
    )
    with Registry.open(settings) as there:
        await serve_two(there, run)


async def serve_two(there: Registry, run: Any) -> None:
    engine = EchoEngine(max_loras=2, max_loaded=2)
    async with run(registry=there, engine=engine, max_loras=2, max_loaded=2) as running:
        for name in "ab":
            assert (await running.chat(name)).status_code == 200
        with pytest.raises(DiskFull, match="is full"):
            there.fetch(there.get("c")).__enter__()
        for name in "cdab":  # each makes room in the engine first, and so in the cache
            assert (await running.chat(name)).status_code == 200
        held = {name for name in "abcd" if there.get(name).path.exists()}
    assert held == {"a", "b"}
    for name in "cd":
        with there.fetch(there.get(name)):
            pass


async def test_without_the_store_goes_on_what_is_here(
    publish: Publish, there: Registry, run: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("warm")
    publish("cached", seed=1)
    never = publish("never", seed=2)
    kept = {key: store.read(key) for key in store.objects()}
    with there.fetch(there.get("cached")):
        pass
    async with run(registry=there) as running:
        assert (await running.chat("warm")).status_code == 200
        store.vanish()
        for name in ("warm", "cached"):
            assert (await running.chat(name)).status_code == 200
        for _ in range(2):
            refused = await running.chat("never")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
            assert refused.json()["error"]["code"] == "adapter_unavailable"
            assert store.url not in refused.text
        assert there.store_away_since is not None
        store.come_back()
        for key, content in kept.items():
            store.write(key, content)
        later = running.service.adapters._quarantine._clock() + 5.1
        monkeypatch.setattr(running.service.adapters._quarantine, "_clock", lambda: later)
        assert (await running.chat("never")).status_code == 200
        assert there.store_away_since is None
    assert never.path != there.get("never").path


async def test_a_blob_that_was_changed_is_refused_and_the_others_go_on(
    publish: Publish, there: Registry, run: Any, store: Store
) -> None:
    version = publish("opl")
    publish("other", seed=1)
    content = bytearray(store.read(blob_of(version)))
    content[-1] ^= 0xFF
    store.write(blob_of(version), bytes(content))
    async with run(registry=there) as running:
        refused = await running.chat("opl")
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "adapter_refused"
        assert store.url not in refused.text
        assert (await running.chat("other")).status_code == 200


async def test_a_copy_that_is_damaged_here_is_fetched_anew(
    publish: Publish, there: Registry, run: Any
) -> None:
    publish("opl")
    with there.fetch(there.get("opl")) as folder:
        (folder / WEIGHTS).chmod(0o644)
        (folder / WEIGHTS).write_bytes(b"damaged")
    async with run(registry=there) as running:
        assert (await running.chat("opl")).status_code == 200
    assert there.verify("opl")


@pytest.fixture
def file(store: Store, registry: Registry) -> File:
    """A file that was sent to the machine of `registry`."""
    with registry.files.receiving() as incoming:
        incoming.write(b'{"messages": []}\n')
        return registry.files.add(
            incoming, tenant="default", purpose=FINE_TUNE, filename="rows.jsonl"
        )


async def test_downloads_from_a_store_that_hangs_keep_nothing_else(
    file: File, there: Registry, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch, goes_on = there.files.fetch, threading.Event()

    def hang(wanted: File) -> AbstractContextManager[Path]:
        goes_on.wait(60)
        return fetch(wanted)

    monkeypatch.setattr(there.files, "fetch", hang)
    async with run(registry=there) as running:
        get = running.client.get
        asked = [asyncio.create_task(get(f"/v1/files/{file.id}/content")) for _ in range(40)]
        try:
            for path in ("/v1/models", "/metrics"):
                async with asyncio.timeout(20):
                    assert (await get(path)).status_code == 200
            assert not any(task.done() for task in asked)
        finally:
            goes_on.set()
        assert {(await task).content for task in asked} == {b'{"messages": []}\n'}


async def test_a_file_that_is_deleted_while_it_is_fetched_is_not_found(
    file: File, registry: Registry, there: Registry, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = there.files.fetch

    def late(wanted: File) -> AbstractContextManager[Path]:
        registry.files.delete("default", wanted.id)
        return fetch(wanted)

    monkeypatch.setattr(there.files, "fetch", late)
    async with run(registry=there) as running:
        answer = await running.client.get(f"/v1/files/{file.id}/content")
    assert answer.status_code == 404
