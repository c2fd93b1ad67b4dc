"""Tenants' files in a shared store: sent to one machine, read on another, gone when deleted."""

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from object_store import Store

from registry import Base, BlobDamaged, Registry, RegistrySettings, StoreUnavailable
from registry.errors import QuotaReached
from registry.finetuning.objects import File
from registry.storage.objects import Objects

ROW = b'{"messages": []}\n'


def send(registry: Registry, content: bytes = ROW, tenant: str = "acme", **more: int) -> File:
    with registry.files.receiving() as incoming:
        incoming.write(content)
        return registry.files.add(
            incoming, tenant=tenant, purpose="fine-tune", filename="rows.jsonl", **more
        )


def key(content: bytes = ROW) -> str:
    sha256 = hashlib.sha256(content).hexdigest()
    return f"sha256/{sha256[:2]}/{sha256}"


def test_files_of_two_machines(store: Store, registry: Registry, tmp_path: Path) -> None:
    settings = RegistrySettings(home=tmp_path / "there", database_url=registry.settings.url)
    with Registry.open(settings) as there:
        mine, other = send(registry), send(there, tenant="globex")
        assert store.objects() == [key()]
        with there.files.fetch(there.files.get("acme", mine.id)) as path:
            assert path == there.files.path(mine)
            assert (path.read_bytes(), path.suffix) == (ROW, ".jsonl")
        there.files.delete("acme", mine.id)
        with registry.files.fetch(other) as path:
            assert path.read_bytes() == ROW
        registry.files.delete("globex", other.id)
        assert store.objects() == []
        for machine in (there, registry):  # each where one was deleted
            assert not machine.files.path(mine).exists()
        lost = send(registry, b"other")
        store.delete(key(b"other"))
        with pytest.raises(BlobDamaged, match="is missing"):
            there.files.fetch(lost).__enter__()


def test_a_file_goes_although_a_version_was_trained_on_it(
    store: Store, registry: Registry, base: Base, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    """The version's manifest names the data's digest, and keeps none of its bytes."""
    mine = send(registry)
    adapter = make_adapter(tmp_path / "adapter", base)
    registry.publish(adapter, "opl", base=base, data_digest=f"sha256:{mine.sha256}")
    registry.files.delete("acme", mine.id)
    assert key() not in store.objects()
    registry.verify("opl@1")


def test_what_was_refused_or_damaged(store: Store, registry: Registry) -> None:
    with pytest.raises(QuotaReached):
        send(registry, most_bytes=1)
    assert registry.files.list(None).data == []
    assert store.objects() == []  # it was asked before anything was sent
    store.write(key(), b"x" * len(ROW))
    with pytest.raises(BlobDamaged, match="was changed"):
        send(registry)
    assert store.read(key()) == b"x" * len(ROW)
    assert registry.files.list(None).data == []
    assert list(registry.settings.staging.iterdir()) == []


def test_deleting_while_the_store_is_away_is_made_good_later(
    store: Store, registry: Registry
) -> None:
    file = send(registry)
    kept = store.read(key())
    store.vanish()
    registry.files.delete("acme", file.id)
    with pytest.raises(StoreUnavailable):
        registry.files.sweep(older_than=-1)
    store.come_back()
    store.write(key(), kept)
    assert registry.files.sweep(older_than=-1) == 1
    assert store.objects() == []


def test_a_store_that_hangs_keeps_no_writer_waiting(
    store: Store, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = send(registry)
    hangs, ended = threading.Event(), threading.Event()

    def hang(*_: object, **__: object) -> None:
        hangs.set()
        ended.wait(60)
        raise OSError("it hung")

    with monkeypatch.context() as hanging, ThreadPoolExecutor(1) as pool:
        hanging.setattr(Objects, "_ask", hang)
        deleting = pool.submit(registry.files.delete, "acme", file.id)
        assert hangs.wait(60)
        registry.keys.create("acme")
        assert not deleting.done()
        ended.set()
        assert deleting.result().id == file.id
    assert store.objects() == [key()]
    assert registry.files.sweep(older_than=-1) == 1
    assert store.objects() == []
