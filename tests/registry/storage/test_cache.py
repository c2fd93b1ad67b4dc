"""The cache: fetched once, verified each time, bounded, and never taken from who uses it."""

import errno
import hashlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest

from registry.disk import SPARE_BYTES
from registry.errors import BlobDamaged, DiskFull, RegistryUnavailable
from registry.manifest import FileIdentity
from registry.storage.cache import Cache

REPOSITORY = Path(__file__).parents[3]
Files = dict[str, FileIdentity]


class Source:
    """Contents by their digest, and how often each was downloaded."""

    def __init__(self) -> None:
        self._contents: dict[str, bytes] = {}
        self.downloads: list[str] = []
        self.before: Callable[[], None] = lambda: None

    def files(self, letter: str, count: int = 1000) -> Files:
        """A set of one file that is so many times this letter."""
        content = letter.encode() * count
        identity = FileIdentity(sha256=hashlib.sha256(content).hexdigest(), bytes=count)
        self._contents[identity.sha256] = content
        return {"file": identity}

    def download(self, identity: FileIdentity, target: BinaryIO) -> None:
        self.downloads.append(identity.sha256)
        self.before()
        target.write(self._contents[identity.sha256])


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def cache(source: Source, tmp_path: Path) -> Cache:
    """Room for three sets of 1,000 bytes."""
    return Cache(tmp_path / "cache", 3500, source.download)


def use(cache: Cache, files: Files) -> bytes:
    with cache.fetch(files) as folder:
        return (folder / "file").read_bytes()


def size(tmp_path: Path) -> int:
    return sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file())


def test_it_is_downloaded_once_and_leaves_nothing_beside_it(cache: Cache, source: Source) -> None:
    files = source.files("a")
    assert use(cache, files) == use(cache, files) == b"a" * 1000
    assert len(source.downloads) == 1
    entry = cache.path(files)
    assert {path.name for path in (entry.parents[1] / ".drafts").iterdir()} <= {"room.lock"}


def test_many_that_want_the_same_at_once_download_it_once(cache: Cache, source: Source) -> None:
    files, barrier = source.files("a"), threading.Barrier(8)

    def want(_: int) -> bytes:
        barrier.wait()
        return use(cache, files)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(want, range(8))) == {b"a" * 1000}
    assert len(source.downloads) == 1


def test_the_least_recently_used_makes_room(cache: Cache, source: Source, tmp_path: Path) -> None:
    sets = [source.files(letter) for letter in "abcd"]
    for at, files in enumerate(sets[:3]):
        use(cache, files)
        os.utime(cache.path(files), (at, at))
    use(cache, sets[0])  # used last
    use(cache, sets[3])
    assert [cache.path(files).exists() for files in sets] == [True, False, True, True]
    assert size(tmp_path) == 3000


def test_a_disk_that_others_fill_makes_less_room(
    cache: Cache, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = source.files("a"), source.files("b")
    use(cache, first)
    usage = shutil.disk_usage(cache.path(first))
    nearly = usage._replace(free=SPARE_BYTES + 500)
    monkeypatch.setattr("registry.storage.cache.shutil.disk_usage", lambda _: nearly)
    use(cache, second)
    assert not cache.path(first).exists()  # there was no room for both on the disk


def test_what_is_in_use_stays_and_a_full_cache_says_so(
    cache: Cache, source: Source, tmp_path: Path
) -> None:
    a, b, c, d = (source.files(letter) for letter in "abcd")
    with cache.fetch(a) as used, cache.fetch(b), cache.fetch(c):
        with pytest.raises(DiskFull, match="is full") as caught:
            use(cache, d)
        assert "LORIKEET_CACHE_BYTES" in str(caught.value.remedy)
        assert (caught.value.needed, caught.value.free) == (1000, 500)
        assert (used / "file").read_bytes() == b"a" * 1000
        assert not cache.path(d).exists()
    assert use(cache, d) == b"d" * 1000
    with pytest.raises(DiskFull):
        use(cache, source.files("e", 4000))
    assert size(tmp_path) <= 3500


HOLD = """
import sys
from pathlib import Path
from registry.manifest import FileIdentity
from registry.storage.cache import Cache

def none(*_):
    raise AssertionError("it is there")

folder, sha256 = sys.argv[1:]
with Cache(Path(folder), 3500, none).fetch({"file": FileIdentity(sha256=sha256, bytes=1000)}):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_another_process_holds_it_until_it_ends(
    cache: Cache, source: Source, tmp_path: Path
) -> None:
    a, *others = (source.files(letter) for letter in "abcde")
    use(cache, a)
    os.utime(cache.path(a), (0, 0))
    command = [sys.executable, "-c", HOLD, tmp_path / "cache", a["file"].sha256]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        for files in others:
            use(cache, files)
        assert cache.path(a).exists()
        holder.kill()
    os.utime(cache.path(a), (0, 0))
    use(cache, source.files("f"))
    assert not cache.path(a).exists()


def test_a_damaged_copy_is_fetched_anew_where_it_is_used(cache: Cache, source: Source) -> None:
    files = source.files("a")
    with cache.fetch(files) as folder:
        folder.chmod(0o755)
        (folder / "file").chmod(0o644)
        (folder / "file").write_bytes(b"b" * 1000)
        (folder / "added").touch()
        assert use(cache, files) == b"a" * 1000
        for other in "cde":
            use(cache, source.files(other))
        assert (folder / "file").read_bytes() == b"a" * 1000
        assert [path.name for path in folder.iterdir()] == ["file"]
    assert source.downloads.count(files["file"].sha256) == 2


def test_what_is_forgotten_goes_unless_it_is_used(cache: Cache, source: Source) -> None:
    files = source.files("a")
    cache.forget(files)
    with cache.fetch(files) as folder:
        cache.forget(files)
        assert (folder / "file").read_bytes() == b"a" * 1000
    cache.forget(files)
    assert not folder.exists()
    assert use(cache, files) == b"a" * 1000


def test_a_download_that_fails_leaves_nothing(
    cache: Cache, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = source.files("a")

    def damaged() -> None:
        raise BlobDamaged("was changed")

    source.before = damaged
    with pytest.raises(BlobDamaged):
        use(cache, files)
    assert size(tmp_path) == 0
    source.before = lambda: None

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        use(cache, files)
    monkeypatch.undo()
    assert size(tmp_path) == 0
    assert use(cache, files) == b"a" * 1000


def _die_fetching(folder: Path) -> None:
    source = Source()
    source.before = lambda: os._exit(9)
    use(Cache(folder, 3500, source.download), source.files("a", 3000))


def test_what_a_killed_process_was_fetching_makes_room(
    cache: Cache, source: Source, tmp_path: Path
) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=_die_fetching, args=(tmp_path / "cache",)
    )
    process.start()
    process.join(60)
    assert process.exitcode == 9
    assert size(tmp_path) == 3000
    use(cache, source.files("b"))
    assert size(tmp_path) == 1000


def test_those_that_are_being_fetched_count(cache: Cache, source: Source) -> None:
    """Two of 2,000 bytes cannot be on the way at once where there is room for 3,500."""
    first, second = source.files("a", 2000), source.files("b", 2000)
    refused: list[DiskFull] = []

    def meanwhile() -> None:
        source.before = lambda: None
        try:
            use(cache, second)
        except DiskFull as error:
            refused.append(error)

    source.before = meanwhile
    use(cache, first)
    assert len(refused) == 1


def test_a_disk_that_does_not_keep_what_is_written(
    cache: Cache, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = source.files("a")
    monkeypatch.setattr("registry.storage.cache._is_open", lambda *_: False)
    with pytest.raises(RegistryUnavailable, match="does not stay"):
        use(cache, files)
