"""Crashes, races and full disks: whatever happens to a publisher, the registry works afterwards."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

from registry import Base, DiskFull, Registry, RegistrySettings, UnknownAdapter
from registry.stage import LEFTOVER_SECONDS, sweep

REPOSITORY = Path(__file__).parents[2]

PUBLISH = """
import os, signal, sys
from pathlib import Path
import registry.catalogue, registry.publishing, registry.stage
from registry import Registry, RegistrySettings, resolve_base

home, base, point, when, *folders = sys.argv[1:]
settings = RegistrySettings(home=Path(home))
base = resolve_base(Path(base), settings)
if point:
    owner, name = point.rsplit(".", 1)
    place = registry
    for part in owner.split(".")[1:]:
        place = getattr(place, part)
    original = getattr(place, name)

    def die(*args, **kwargs):
        if when == "after":
            original(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(place, name, die)
opened = Registry.open(settings)
for folder in folders:
    print(opened.publish(Path(folder), "titulares", base=base).number)
"""

POINTS = [
    ("registry.stage.copy_durably", "before"),
    ("registry.stage.copy_durably", "after"),
    ("registry.publishing.inspect_adapter", "after"),
    ("registry.catalogue.Catalogue.reserve", "after"),
    ("registry.stage.write_durably", "before"),
    ("registry.stage.write_durably", "after"),
    ("registry.stage.protect", "before"),
    ("registry.stage.protect", "after"),
    ("registry.catalogue.Catalogue.add", "before"),
    ("registry.catalogue.Catalogue.add", "after"),
]


def publisher(
    home: Path, base: Base, folders: list[Path], point: str = "", when: str = "", **options: Any
) -> subprocess.Popen[str]:
    """A process of its own that publishes `folders`, and may be killed at a point."""
    arguments = [str(home), str(base.path), point, when, *map(str, folders)]
    return subprocess.Popen(
        [sys.executable, "-c", PUBLISH, *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def numbers(process: subprocess.Popen[str]) -> list[int]:
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    return [int(line) for line in out.split()]


@pytest.mark.parametrize(
    ("database_url", "point", "when"),
    [
        *(pytest.param("sqlite", p, w, id=f"{w} {p}") for p, w in POINTS),
        *(
            pytest.param("postgresql", p, w, id=f"{w} {p}, postgresql")
            for p, w in POINTS
            if p.startswith("registry.catalogue.")
        ),
    ],
    indirect=["database_url"],
)
@pytest.mark.usefixtures("database_url")
def test_killed_while_publishing(
    home: Path, base: Base, adapters: list[Path], point: str, when: str
) -> None:
    with Registry.open() as registry:
        first = registry.publish(adapters[0], "titulares", base=base)
    process = publisher(home, base, [adapters[1]], point, when)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    with Registry.open() as registry:
        whole = {"registry.stage.protect", "registry.catalogue.Catalogue.add"}
        there = [registry.verify(version).manifest.digest for version in registry.list()]
        assert len(there) == (2 if point in whole else 1)
        assert registry.get("titulares@1") == registry.list()[0]
        second = registry.publish(adapters[1], "titulares", base=base)
        third = registry.publish(adapters[2], "titulares", base=base)
        assert first.number < second.number < third.number
        for version in registry.list():
            registry.verify(version)
            assert not version.path.stat().st_mode & 0o222
        sweep(registry.settings.staging, older_than=0)
        assert list(registry.settings.staging.iterdir()) == []


@pytest.mark.usefixtures("database_url")
def test_four_processes_publish_at_once(home: Path, base: Base, adapters: list[Path]) -> None:
    """All begin on a home that has no database yet, the first with the same content."""
    sets = [[adapters[0], adapters[i]] for i in (1, 2, 3, 1)]
    processes = [publisher(home, base, folders) for folders in sets]
    results = [numbers(process) for process in processes]
    assert len({first for first, _ in results}) == 1  # the same content: one version
    assert results[0][1] == results[3][1]
    with Registry.open() as registry:
        assert [version.number for version in registry.list()] == [1, 2, 3, 4]
        for version in registry.list():
            registry.verify(version)


def test_a_lost_database_is_made_again_from_the_manifests(
    home: Path, base: Base, adapters: list[Path]
) -> None:
    with Registry.open() as registry:
        for adapter in adapters[:3]:
            registry.publish(adapter, "titulares", base=base)
        registry.remove("titulares", 2)
        before = registry.list()
    for file in home.glob("registry.db*"):
        file.unlink()
    with Registry.open() as registry:
        assert registry.list() == before
        assert registry.publish(adapters[1], "titulares", base=base).number == 4


def test_a_damaged_folder_without_a_row_is_neither_adopted_nor_deleted(
    home: Path, base: Base, adapters: list[Path]
) -> None:
    """Another database may know it; where it is in the way, its like takes its place."""
    with Registry.open() as registry:
        path = registry.publish(adapters[0], "titulares", base=base).path
        registry.publish(adapters[1], "titulares", base=base)
    weights = path / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1])
    for file in home.glob("registry.db*"):
        file.unlink()
    with Registry.open() as registry:
        assert [version.number for version in registry.list()] == [2]
        assert path.exists()
    for file in home.glob("registry.db*"):
        file.unlink()
    (home / "adapters" / "titulares").rename(home / "away")
    with Registry.open() as registry:
        (home / "adapters" / "titulares").mkdir()
        (home / "away" / path.name).rename(path)
        assert registry.publish(adapters[0], "titulares", base=base).path == path
        registry.verify("titulares@1")


@pytest.mark.usefixtures("database_url")
def test_a_removal_cut_short_is_finished(home: Path, base: Base, adapters: list[Path]) -> None:
    """The row says removed, the folder is still there: it does not come back."""
    with Registry.open() as registry:
        path = registry.publish(adapters[0], "titulares", base=base).path
        registry._catalogue.remove("titulares", 1, lambda *_: None)
        assert path.exists()
    with Registry.open() as registry:
        assert not path.exists()
        with pytest.raises(UnknownAdapter):
            registry.get("titulares")


def test_folders_of_other_people_are_left_alone(home: Path) -> None:
    Registry.open().close()
    for name in ("titulares/notes", "mine/1-zzz", ".git/1-0123456789ab"):
        (home / "adapters" / name).mkdir(parents=True)
    Registry.open().close()
    assert (home / "adapters/titulares/notes").exists()
    assert (home / "adapters/mine/1-zzz").exists()
    assert (home / "adapters/.git/1-0123456789ab").exists()


def test_sweeping_spares_the_young_and_the_living(tmp_path: Path) -> None:
    long_ago = time.time() - LEFTOVER_SECONDS - 60
    for name in ("young", "dead", "living"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    for name in ("dead", "living"):
        os.utime(tmp_path / name, (long_ago, long_ago))
    with FileLock(tmp_path / "living.lock"):
        sweep(tmp_path)
        assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["living", "young"]
    sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["young"]


def _assert_untouched(home: Path) -> None:
    assert list((home / "adapters" / ".staging").iterdir()) == []
    with Registry.open(RegistrySettings(home=home)) as registry:
        assert registry.list() == []


def test_too_little_space_is_told_before_anything_is_copied(
    home: Path, base: Base, adapters: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    monkeypatch.setattr("registry.stage.copy_durably", None)
    with Registry.open() as registry, pytest.raises(DiskFull) as caught:
        registry.publish(adapters[0], "titulares", base=base)
    size = sum(path.stat().st_size for path in adapters[0].iterdir())
    assert caught.value.needed > size
    assert caught.value.free == 1000
    assert "LORIKEET_HOME" in str(caught.value.remedy)
    monkeypatch.undo()
    _assert_untouched(home)


@pytest.mark.parametrize("point", ["fsync", "write", "chmod", "rename"])
def test_space_that_runs_out_leaves_nothing(
    home: Path, base: Base, adapters: list[Path], monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Registry.open() as registry:
        if point == "write":
            monkeypatch.setattr("registry.stage.write_durably", full)
        elif point == "fsync":
            monkeypatch.setattr(os, "fsync", full)
        else:
            monkeypatch.setattr(Path, point, full)
        with pytest.raises(DiskFull) as caught:
            registry.publish(adapters[0], "titulares", base=base)
        assert caught.value.needed
        monkeypatch.undo()
        assert registry.publish(adapters[0], "titulares", base=base).number >= 1
        registry.verify("titulares")


def test_a_file_size_limit_of_the_system_leaves_nothing(
    home: Path, base: Base, adapters: list[Path]
) -> None:
    """The real thing: the kernel refuses to write more than 8 KiB to any file."""
    Registry.open().close()
    script = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n" + PUBLISH
    done = subprocess.run(
        [sys.executable, "-c", script, str(home), str(base.path), "", "", str(adapters[0])],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "registry.errors.DiskFull" in done.stderr
    _assert_untouched(home)


def test_interrupted_by_the_keyboard(
    home: Path, base: Base, adapters: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("registry.stage.write_durably", interrupt)
    with Registry.open() as registry:
        with pytest.raises(KeyboardInterrupt):
            registry.publish(adapters[0], "titulares", base=base)
        monkeypatch.undo()
        _assert_untouched(home)
        registry.publish(adapters[0], "titulares", base=base)


def test_a_thousand_adapters_open_fast(home: Path, base: Base, adapters: list[Path]) -> None:
    with Registry.open() as registry:
        version = registry.publish(adapters[0], "titulares", base=base)
    manifest = json.loads((version.path / "manifest.json").read_text())
    for number in range(2, 1001):
        folder = home / "adapters" / f"a{number}" / f"1-{version.path.name[2:]}"
        folder.mkdir(parents=True)
        for name in manifest["files"]:
            (folder / name).hardlink_to(version.path / name)
        (folder / "manifest.json").write_text(
            json.dumps(manifest | {"name": f"a{number}", "version": 1})
        )
    Registry.open().close()  # takes them in
    start = time.perf_counter()
    with Registry.open(RegistrySettings()) as registry:
        assert time.perf_counter() - start < 0.5
        assert len(registry.list()) == 1000
        assert time.perf_counter() - start < 1
        assert registry.get("a100").number == 1
