"""Versions in a shared store: published on one machine, there on another, whole or not at all."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from object_store import Store

from registry import (
    AliasRefused,
    Base,
    BlobDamaged,
    Registry,
    RegistrySettings,
    StoreUnavailable,
    UnknownAdapter,
    Version,
    VersionDamaged,
)
from registry.storage.blobs import Blobs
from registry.storage.objects import Objects

REPOSITORY = Path(__file__).parents[3]
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def here(store: Store) -> Iterator[Registry]:
    """The registry of this machine."""
    with Registry.open() as registry:
        yield registry


@pytest.fixture
def there(here: Registry, tmp_path: Path) -> Iterator[Registry]:
    """Another machine's: its own data folder, the same store and database."""
    settings = RegistrySettings(home=tmp_path / "there", database_url=here.settings.url)
    with Registry.open(settings) as registry:
        yield registry


def blob_of(version: Version, name: str = WEIGHTS) -> str:
    """The key of a version's file."""
    sha256 = version.manifest.files[name].sha256
    return f"sha256/{sha256[:2]}/{sha256}"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_one_machine_publishes_another_has(
    here: Registry, there: Registry, store: Store, base: Base, adapters: list[Path]
) -> None:
    version = here.publish(adapters[0], "titulares", base=base)
    assert store.objects() == sorted(
        [
            blob_of(version),
            blob_of(version, "adapter_config.json"),
            f"adapters/{version.manifest.place}/manifest.json",
        ]
    )
    found = there.get("titulares@1")
    assert found.manifest == version.manifest
    assert not found.path.exists()
    with there.fetch(found) as folder:
        assert folder == found.path
        assert contents(folder) == contents(adapters[0])
        assert not any(path.stat().st_mode & 0o222 for path in (folder, *folder.iterdir()))
    assert there.verify("titulares@1") == found


def test_the_cache_is_enough_when_the_store_is_away(
    here: Registry, there: Registry, base: Base, adapters: list[Path], store: Store
) -> None:
    first = here.publish(adapters[0], "titulares", base=base)
    second = here.publish(adapters[1], "titulares", base=base)
    with there.fetch(first):
        pass
    assert there.store_away_since is None
    lost = RegistrySettings(
        home=there.settings.home,
        database_url=here.settings.url,
        store_url=f"{store.url.rpartition('/')[0]}-gone/team",
    )
    with Registry.open(lost) as away:
        with away.fetch(first) as folder:
            assert contents(folder) == contents(adapters[0])
        for call in (lambda: away.fetch(second).__enter__(), lambda: away.verify(second)):
            with pytest.raises(StoreUnavailable, match="no store") as caught:
                call()
            assert "LORIKEET_STORE_URL" in str(caught.value.remedy)
        with pytest.raises(StoreUnavailable):
            away.publish(adapters[2], "titulares", base=base)
        assert away.store_away_since is not None
        assert [version.number for version in away.list()] == [1, 2]
    assert here.publish(adapters[2], "titulares", base=base).number == 3


def test_a_blob_that_changes_under_its_digest_is_never_given(
    here: Registry, there: Registry, store: Store, base: Base, adapters: list[Path]
) -> None:
    first = here.publish(adapters[0], "titulares", base=base)
    second = here.publish(adapters[1], "titulares", base=base)
    changed = bytearray(store.read(blob_of(first)))
    changed[-1] ^= 0xFF
    for content in (bytes(changed), bytes(changed[:-1])):
        store.write(blob_of(first), content)
        for call in (lambda: there.fetch(first).__enter__(), lambda: there.verify(first)):
            with pytest.raises(VersionDamaged, match="was changed") as caught:
                call()
            assert "delete it, and publish" in str(caught.value.remedy)
        assert not first.path.exists()
        assert not list((there.settings.cache / ".drafts").glob("*/"))
    with there.fetch(second) as folder:
        assert contents(folder) == contents(adapters[1])
    with pytest.raises(BlobDamaged, match="was changed"):  # and not written over
        here.publish(adapters[0], "other", base=base)
    assert store.read(blob_of(first)) == bytes(changed[:-1])
    store.delete(blob_of(first))
    with pytest.raises(VersionDamaged, match="is missing"):
        there.verify(first)
    manifest = f"adapters/{second.manifest.place}/manifest.json"
    store.write(manifest, b"{}")
    with pytest.raises(VersionDamaged, match=r"manifest\.json was changed") as caught:
        there.verify(second)
    assert "lorikeet adapters remove titulares@2" in str(caught.value.remedy)


def test_publishing_again_brings_back_what_is_missing(
    here: Registry, there: Registry, store: Store, base: Base, adapters: list[Path]
) -> None:
    """A file that versions share too, which to remove one of them would not delete."""
    first, second = (here.publish(adapter, "titulares", base=base) for adapter in adapters[:2])
    shared = blob_of(first, "adapter_config.json")
    assert shared == blob_of(second, "adapter_config.json")
    for key in (shared, blob_of(first)):
        store.delete(key)
    with pytest.raises(VersionDamaged, match=r"config.*is missing.*model.*is missing"):
        here.verify(first)
    assert there.publish(adapters[0], "titulares", base=base) == there.get("titulares@1")
    for version in (first, second):
        here.verify(version)
    assert here.files.sweep(older_than=-1) == 0
    here.verify(first)


def test_a_removed_version_takes_what_only_it_has(
    here: Registry, there: Registry, store: Store, base: Base, adapters: list[Path]
) -> None:
    version = here.publish(adapters[0], "titulares", base=base)
    here.publish(adapters[0], "twin", base=base)
    here.promote("titulares", 1, force="a test")
    with pytest.raises(AliasRefused):
        there.remove("titulares", 1)
    here.publish(adapters[1], "titulares", base=base)
    there.promote("titulares", 2, force="a test")
    there.remove("titulares", 1)
    with pytest.raises(UnknownAdapter):
        here.get("titulares@1")
    assert blob_of(version) in store.objects()
    assert f"adapters/{version.manifest.place}/manifest.json" not in store.objects()
    with there.fetch(there.get("twin@1")) as folder:
        pass
    there.remove("twin", 1)
    assert blob_of(version) not in store.objects()
    assert not folder.exists()
    assert here.publish(adapters[0], "titulares", base=base).number == 3
    here.verify("titulares@3")


def test_what_is_recorded_is_in_the_row_and_in_the_store(
    here: Registry, there: Registry, store: Store, base: Base, adapters: list[Path]
) -> None:
    version = here.publish(adapters[0], "titulares", base=base)
    here.record("titulares@1", evaluation={"n": 1})
    there.record("titulares@1", certificate={"passed": True})
    manifest = here.get("titulares").manifest
    assert (manifest.evaluation, manifest.certificate) == ({"n": 1}, {"passed": True})
    kept = json.loads(store.read(f"adapters/{version.manifest.place}/manifest.json"))
    assert (kept["evaluation"], kept["certificate"]) == ({"n": 1}, {"passed": True})
    with there.fetch(version) as folder:
        assert set(contents(folder)) == set(manifest.files)


def test_what_is_recorded_without_the_store_is_filed_later(
    here: Registry, store: Store, base: Base, adapters: list[Path]
) -> None:
    version = here.publish(adapters[0], "titulares", base=base)
    manifest = f"adapters/{version.manifest.place}/manifest.json"
    kept = {key: store.read(key) for key in store.objects()}
    store.vanish()
    assert here.record("titulares@1", evaluation={"n": 1}).manifest.evaluation == {"n": 1}
    Registry.open().close()  # the rows are enough
    store.come_back()
    for key, content in kept.items():
        store.write(key, content)
    assert json.loads(store.read(manifest))["evaluation"] is None
    with Registry.open() as again:
        assert json.loads(store.read(manifest))["evaluation"] == {"n": 1}
        assert again.get("titulares").manifest.evaluation == {"n": 1}


def test_what_machines_record_at_once_is_filed_in_the_end(
    here: Registry,
    there: Registry,
    store: Store,
    base: Base,
    adapters: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one writes its row first and its file last."""
    version = here.publish(adapters[0], "titulares", base=base)
    record = here._storage.record

    def late(*arguments: Any) -> None:
        there.record("titulares@1", certificate={"passed": True})
        record(*arguments)

    with monkeypatch.context() as slow:
        slow.setattr(here._storage, "record", late)
        here.record("titulares@1", evaluation={"n": 1})
    Registry.open().close()
    kept = json.loads(store.read(f"adapters/{version.manifest.place}/manifest.json"))
    assert (kept["evaluation"], kept["certificate"]) == ({"n": 1}, {"passed": True})
    assert list(here._catalogue.unfiled()) == []


def test_a_new_database_takes_in_what_the_store_has(
    here: Registry, store: Store, base: Base, adapters: list[Path], tmp_path: Path
) -> None:
    for adapter in adapters[:3]:
        here.publish(adapter, "titulares", base=base)
    here.remove("titulares", 2)
    store.delete(blob_of(here.get("titulares@3")))
    first = here.get("titulares@1").manifest
    evil = first.model_copy(update={"name": "evil", "files": {"../evil": first.files[WEIGHTS]}})
    store.write(f"adapters/{evil.place}/manifest.json", evil.model_dump_json().encode())
    with Registry.open(RegistrySettings(home=tmp_path / "new")) as new:
        assert [version.manifest for version in new.list()] == [here.get("titulares@1").manifest]


PUBLISH = """
import os, signal, sys
from pathlib import Path
from registry import Registry, RegistrySettings, resolve_base
from registry.catalogue import Catalogue
from registry.storage.blobs import Blobs
from registry.storage.shared import SharedVersions

home, base, point, *folders = sys.argv[1:]
settings = RegistrySettings(home=Path(home))
base = resolve_base(Path(base), settings)

def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

match point:
    case "one blob":
        Blobs.put, put = lambda *all: (put(*all), die()), Blobs.put
    case "all blobs":
        Catalogue.reserve = die
    case "manifest":
        Catalogue.add = die
opened = Registry.open(settings)
sys.stdin.readline()
for folder in folders:
    print(opened.publish(Path(folder), "titulares", base=base).number)
"""


def publisher(
    home: Path, base: Base, folders: list[Path], point: str = ""
) -> subprocess.Popen[str]:
    """Another machine's process that publishes when a line comes, and may be killed at a point."""
    return subprocess.Popen(
        [sys.executable, "-c", PUBLISH, home, base.path, point, *folders],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("store", "point"),
    [("file", "one blob"), ("file", "all blobs"), ("s3", "manifest")],
    indirect=["store"],
)
def test_half_an_upload_is_no_version_and_goes_after_a_day(
    here: Registry,
    store: Store,
    base: Base,
    adapter: Path,
    adapters: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
) -> None:
    version = here.publish(adapters[0], "titulares", base=base)
    store.write("notes/mine", b"somebody else's")
    whole = store.objects()
    monkeypatch.setenv("LORIKEET_DATABASE_URL", here.settings.url)
    killed = publisher(tmp_path / "there", base, [adapter], point)
    _, error = killed.communicate("\n", timeout=60)
    assert killed.returncode == -signal.SIGKILL, error
    with Registry.open() as again:
        assert again.list() == [version]
        assert len(store.objects()) > len(whole)
        assert again.files.sweep() == 0  # they are young: somebody may be about to write the row
        assert again.files.sweep(older_than=-1) > 0
        assert store.objects() == whole
        assert again.files.sweep(older_than=-1) == 0
        assert again.publish(adapter, "titulares", base=base).number >= 2
        assert again.files.sweep(older_than=-1) == 0
        for each in again.list():
            again.verify(each)


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_machines_publish_at_once(
    postgres: object,
    store: Store,
    base: Base,
    adapters: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same content first, then each its own: one version of the same, none lost."""
    monkeypatch.setenv("LORIKEET_DATABASE_URL", postgres.fresh())  # type: ignore[attr-defined]
    sets = [[adapters[0], adapters[at]] for at in (1, 2)]
    machines = [publisher(tmp_path / f"m{at}", base, each) for at, each in enumerate(sets)]
    for machine in machines:
        machine.stdin.write("\n")  # type: ignore[union-attr]
        machine.stdin.flush()  # type: ignore[union-attr]
    results = []
    for machine in machines:
        out, error = machine.communicate(timeout=120)
        assert machine.returncode == 0, error
        results.append([int(line) for line in out.split()])
    assert len({first for first, _ in results}) == 1
    assert results[0][1] != results[1][1]
    with Registry.open() as registry:
        assert len(registry.list()) == 3
        for version in registry.list():
            registry.verify(version)


def test_a_store_that_goes_away_midway_publishes_nothing(
    here: Registry, store: Store, base: Base, adapters: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    put = Blobs.put

    def put_one(blobs: Blobs, *arguments: Any) -> None:
        put(blobs, *arguments)
        store.vanish()

    monkeypatch.setattr(Blobs, "put", put_one)
    with pytest.raises(StoreUnavailable, match="no store"):
        here.publish(adapters[0], "titulares", base=base)
    monkeypatch.undo()
    assert here.list() == []
    assert list(here.settings.staging.iterdir()) == []
    store.come_back()
    version = here.publish(adapters[0], "titulares", base=base)
    assert here.verify(version).number == 1
    assert here.store_away_since is None


def test_a_store_that_goes_away_while_fetching_leaves_nothing(
    here: Registry, store: Store, base: Base, adapters: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = here.publish(adapters[0], "titulares", base=base)
    kept = {key: store.read(key) for key in store.objects()}
    read = Objects.read

    def read_one(objects: Objects, *arguments: Any) -> bytes:
        monkeypatch.setattr(Objects, "read", read)
        piece = read(objects, *arguments)
        store.vanish()
        return piece

    monkeypatch.setattr(Objects, "read", read_one)
    with pytest.raises(StoreUnavailable):
        here.fetch(version).__enter__()
    assert not version.path.exists()
    assert not list((here.settings.cache / ".drafts").glob("*/"))
    store.come_back()
    for key, content in kept.items():
        store.write(key, content)
    with here.fetch(version) as folder:
        assert contents(folder) == contents(adapters[0])
