"""What is added to a version after it was published: its evaluation, its certificate."""

import errno
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from registry import Base, DiskFull, Registry, RegistrySettings, UnknownAdapter, VersionDamaged
from registry.manifest import Manifest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def version(registry: Registry, base: Base, adapter: Path) -> str:
    return registry.publish(adapter, "titulares", base=base, training={"steps": 7}).reference


def on_disk(registry: Registry, version: str) -> Manifest:
    path = registry.get(version).path / "manifest.json"
    return Manifest.model_validate_json(path.read_bytes())


def test_a_record_is_in_the_manifest_and_nothing_else_changes(
    registry: Registry, version: str
) -> None:
    before = registry.get(version)
    after = registry.record(version, evaluation={"task": "labels"})
    assert after.manifest == before.manifest.model_copy(update={"evaluation": {"task": "labels"}})
    assert after.path == before.path
    assert on_disk(registry, version) == after.manifest
    assert registry.verify(version).manifest == after.manifest
    assert (after.path.stat().st_mode & 0o777, after.path.name) == (0o555, before.path.name)


def test_records_are_kept_apart_and_replaced(registry: Registry, version: str) -> None:
    registry.record(version, evaluation={"n": 1})
    registry.record(version, certificate={"passed": True})
    manifest = registry.record(version, evaluation={"n": 2}).manifest
    assert (manifest.evaluation, manifest.certificate) == ({"n": 2}, {"passed": True})


def test_other_registries_see_it(registry: Registry, version: str) -> None:
    with Registry.open(registry.settings) as other:
        assert other.get(version).manifest.evaluation is None
        registry.record(version, evaluation={"n": 1})
        assert other.get(version).manifest.evaluation == {"n": 1}
        assert other.list()[0].manifest.evaluation == {"n": 1}


RECORD = """
import os, signal, sys
import registry.catalogue, registry.files, registry.stage
from registry import Registry, RegistrySettings

owner, _, name = sys.argv[1].rpartition(".")
place = registry
for part in owner.split(".")[1:]:
    place = getattr(place, part)
original = getattr(place, name)

def die(*arguments):
    if sys.argv[2] == "after":
        original(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)

opened = Registry.open(RegistrySettings())
setattr(place, name, die)
opened.record("titulares@1", certificate={"passed": True})
"""
KILLED_AT = [
    ("registry.stage.write_durably", "after", False),
    ("registry.catalogue.Catalogue.record", "before", False),
    ("registry.catalogue.Catalogue.record", "after", True),
    ("registry.stage.protect", "before", True),
    ("registry.stage.Stage.replace_manifest", "after", True),
    ("registry.catalogue.Catalogue.filed", "after", True),
]


@pytest.mark.parametrize(("point", "when", "recorded"), KILLED_AT)
def test_who_is_killed_while_recording_leaves_it_whole_or_not_at_all(
    registry: Registry, version: str, point: str, when: str, recorded: bool
) -> None:
    registry.record(version, evaluation={"n": 1})
    killed = subprocess.run(
        [sys.executable, "-c", RECORD, point, when], cwd=REPOSITORY, timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    with Registry.open(registry.settings) as other:
        manifest = other.verify(version).manifest
        assert manifest.certificate == ({"passed": True} if recorded else None)
        assert manifest.evaluation == {"n": 1}
        assert on_disk(other, version) == manifest
        folder = other.get(version).path
        assert not any(path.stat().st_mode & 0o222 for path in (folder, *folder.iterdir()))
    for file in registry.settings.home.glob("registry.db*"):
        file.unlink()
    with Registry.open(registry.settings) as again:  # from the files alone
        assert again.get(version).manifest == manifest


def test_a_full_disk_records_nothing(
    registry: Registry, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("registry.stage.write_durably", full)
        with pytest.raises(DiskFull):
            registry.record(version, certificate={"passed": True})
    assert registry.get(version).manifest.certificate is None
    assert on_disk(registry, version).certificate is None


def test_who_read_a_version_before_it_was_added_to_finds_it_whole(
    registry: Registry, version: str
) -> None:
    """A server that verifies what it looked up a moment ago."""
    before = registry.get(version)
    registry.record(version, evaluation={"n": 1})
    assert registry.verify(before) == before
    assert on_disk(registry, version).evaluation == {"n": 1}


def test_an_adapter_that_is_trained_again_gets_the_new_evaluation(
    registry: Registry, version: str, base: Base, adapter: Path
) -> None:
    again = registry.publish(adapter, "titulares", base=base, evaluation={"n": 2})
    assert (again.reference, again.manifest.evaluation) == (version, {"n": 2})
    assert registry.publish(adapter, "titulares", base=base).manifest.evaluation == {"n": 2}


def test_a_manifest_that_was_changed_otherwise_is_damaged(registry: Registry, version: str) -> None:
    path = registry.get(version).path
    path.chmod(0o755)
    file = path / "manifest.json"
    file.chmod(0o644)
    file.write_text(file.read_text().replace('"steps": 7', '"steps": 8'))
    with pytest.raises(VersionDamaged, match=r"manifest\.json was changed"):
        registry.verify(version)


def test_recording_at_once_loses_none(registry: Registry, version: str) -> None:
    def work(record: dict[str, Any]) -> None:
        with Registry.open(registry.settings) as mine:
            for _ in range(5):
                mine.record(version, **record)

    records: list[dict[str, Any]] = [{"evaluation": {"n": 1}}, {"certificate": {"passed": False}}]
    threads = [threading.Thread(target=work, args=(record,)) for record in records]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    manifest = registry.verify(version).manifest
    assert (manifest.evaluation, manifest.certificate) == ({"n": 1}, {"passed": False})


def test_nobody_is_recorded(home: Path) -> None:
    with Registry.open(RegistrySettings()) as registry, pytest.raises(UnknownAdapter):
        registry.record("nobody", evaluation={})
