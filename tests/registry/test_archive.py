"""Archives that strangers send: adapters come out whole, everything else is refused by its code."""

import gzip
import io
import random
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry import AdapterRejected, Base, Limits, Registry, check_adapter, unpack
from registry.archive import MAX_MEMBERS

MAX_BYTES = 1 << 20
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FILES = {CONFIG: b'{"r": 8}', WEIGHTS: random.Random(0).randbytes(300_000)}

Members = dict[str, bytes]
Pack = Callable[[Path, Members], Path]


def pack_zip(path: Path, members: Members) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def pack_stored_zip(path: Path, members: Members) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def pack_tar(path: Path, members: Members, mode: str = "w", **options: Any) -> Path:
    with tarfile.open(path, mode, **options) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def pack_gz(path: Path, members: Members) -> Path:
    return pack_tar(path, members, "w:gz")


def pack_gnu(path: Path, members: Members) -> Path:
    return pack_tar(path, members, format=tarfile.GNU_FORMAT)


PACKS: list[Pack] = [pack_zip, pack_stored_zip, pack_tar, pack_gz, pack_gnu]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where it goes; whatever happens, nothing is written beside it."""
    folder = tmp_path / "out" / "folder"
    folder.mkdir(parents=True)
    yield folder
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]
    assert all(path.is_file() and not path.is_symlink() for path in folder.iterdir())


def unpacked(folder: Path) -> Members:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refused(archive: Path, folder: Path, max_bytes: int = MAX_BYTES) -> str:
    """The code it is refused with."""
    with pytest.raises(AdapterRejected) as caught:
        unpack(archive, folder, max_bytes=max_bytes)
    (problem,) = caught.value.problems
    assert caught.value.remedy == problem.remedy
    assert problem.severity == "error"
    assert (problem.message + problem.remedy).isprintable()
    assert str(folder.parent) not in problem.message
    return problem.code


@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize("prefix", ["", "./", "my adapter/", "./out/"])
def test_an_adapter_comes_out_whole(archive: Path, folder: Path, pack: Pack, prefix: str) -> None:
    companions = {"tokenizer.json": b"{}", "chat_template.jinja": b"x", "manifest.json": b"{}"}
    others = {"README.md": b"hello", "checkpoint-3/deep/adapter_config.json": b"not this one"}
    members = {prefix + name: content for name, content in (FILES | companions | others).items()}
    unpack(pack(archive, members), folder, max_bytes=MAX_BYTES)
    assert unpacked(folder) == FILES | companions


@pytest.mark.parametrize("pack", PACKS)
def test_the_limit_is_exact(archive: Path, folder: Path, pack: Pack) -> None:
    total = sum(map(len, FILES.values()))
    pack(archive, FILES)
    assert refused(archive, folder, total - 1) == "archive-size"
    for path in folder.iterdir():
        path.unlink()
    unpack(archive, folder, max_bytes=total)
    assert unpacked(folder) == FILES


BAD_PATHS = [
    "/adapter_config.json",
    "../adapter_config.json",
    "a/../../adapter_config.json",
    "../../etc/passwd",
    "C:/adapter_config.json",
    "..\\adapter_config.json",
    "a/..",
]


@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize("path", BAD_PATHS)
def test_paths_that_leave_the_folder(archive: Path, folder: Path, pack: Pack, path: str) -> None:
    assert refused(pack(archive, {**FILES, path: b"x"}), folder) == "archive-path"


LAYOUTS = [
    ("archive-layout", {CONFIG: b"{}", f"a/{WEIGHTS}": b"x"}),
    ("archive-layout", {f"a/{CONFIG}": b"{}", f"b/{WEIGHTS}": b"x"}),
    ("archive-empty", {}),
    ("archive-empty", {"README.md": b"hello"}),
    ("archive-empty", {f"a/b/{CONFIG}": b"{}"}),
    ("archive-duplicate", {CONFIG: b"{}", f"./{CONFIG}": b"{}"}),
    ("archive-duplicate", {"a/x": b"{}", "a//x": b"{}"}),
    ("archive-members", {f"f{i}": b"" for i in range(MAX_MEMBERS + 1)}),
]


@pytest.mark.parametrize("pack", [pack_zip, pack_gz])
@pytest.mark.parametrize(("code", "members"), LAYOUTS, ids=[str(i) for i in range(len(LAYOUTS))])
def test_layouts_that_are_no_adapter(
    archive: Path, folder: Path, pack: Pack, code: str, members: Members
) -> None:
    assert refused(pack(archive, members), folder) == code


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_member_that_comes_twice(archive: Path, folder: Path, kind: str) -> None:
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as made:
            made.writestr(CONFIG, b"{}")
            made.writestr(CONFIG, b"[]")
    else:
        with tarfile.open(archive, "w") as made_tar:
            for _ in range(2):
                made_tar.addfile(tarfile.TarInfo(CONFIG))
    assert refused(archive, folder) == "archive-duplicate"


TYPES = [
    ("archive-link", tarfile.SYMTYPE),
    ("archive-link", tarfile.LNKTYPE),
    ("archive-special", tarfile.CHRTYPE),
    ("archive-special", tarfile.BLKTYPE),
    ("archive-special", tarfile.FIFOTYPE),
    ("archive-special", tarfile.GNUTYPE_SPARSE),
]


@pytest.mark.parametrize("name", [CONFIG, "elsewhere"])
@pytest.mark.parametrize(("code", "kind"), TYPES)
def test_links_and_devices_in_a_tar(
    archive: Path, folder: Path, code: str, kind: bytes, name: str
) -> None:
    with tarfile.open(archive, "w:gz") as made:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        made.addfile(member)
    assert refused(archive, folder) == code


@pytest.mark.parametrize(
    ("code", "mode"), [("link", 0o120777), ("special", 0o010644), ("special", 0o020644)]
)
def test_links_and_devices_in_a_zip(archive: Path, folder: Path, code: str, mode: int) -> None:
    member = zipfile.ZipInfo(CONFIG)
    member.external_attr = mode << 16
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr(member, "/etc/passwd")
    assert refused(archive, folder) == f"archive-{code}"


def test_an_encrypted_zip(archive: Path, folder: Path) -> None:
    content = bytearray(pack_zip(archive, FILES).read_bytes())
    content[content.index(b"PK\x03\x04") + 6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    assert refused(archive, folder) == "archive-encrypted"


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_of_another_compression(archive: Path, folder: Path, method: int) -> None:
    with zipfile.ZipFile(archive, "w", method) as made:
        made.writestr(CONFIG, b"{}")
    assert refused(archive, folder) == "archive-compression"


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"PICKLE" * 100, bytes(10_000), b"BZh91AY", b"\xfd7zXZ\0", b"7z\xbc\xaf'\x1c"],
)
def test_what_is_no_archive(archive: Path, folder: Path, content: bytes) -> None:
    archive.write_bytes(content)
    assert refused(archive, folder) == "archive-kind"


@pytest.mark.parametrize("member", [WEIGHTS, "ignored.bin"])
@pytest.mark.parametrize("pack", [pack_zip, pack_gz])
def test_a_bomb_stops_at_the_limit(archive: Path, folder: Path, pack: Pack, member: str) -> None:
    pack(archive, {CONFIG: b"{}", member: bytes(100 * MAX_BYTES)})
    assert archive.stat().st_size < MAX_BYTES
    tracemalloc.start()
    assert refused(archive, folder) == "archive-size"
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
    assert set(unpacked(folder)) <= {CONFIG}


def test_a_zip_that_lies_about_its_sizes(archive: Path, folder: Path) -> None:
    """It says 100 bytes and unpacks to 100 MiB: no more than it says is read."""
    size = 100 * MAX_BYTES
    content = pack_zip(archive, {CONFIG: b"{}", WEIGHTS: bytes(size)}).read_bytes()
    assert content.count(struct.pack("<I", size)) == 2
    archive.write_bytes(content.replace(struct.pack("<I", size), struct.pack("<I", 100)))
    assert refused(archive, folder) == "archive-damaged"
    assert sum(len(content) for content in unpacked(folder).values()) < 1000


def test_a_gzip_that_goes_on_behind_its_tar(archive: Path, folder: Path) -> None:
    archive.write_bytes(pack_gz(archive, FILES).read_bytes() + gzip.compress(bytes(64 << 20)))
    assert refused(archive, folder) == "archive-size"


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE])
def test_a_header_that_would_fill_the_memory(archive: Path, folder: Path, kind: bytes) -> None:
    with tarfile.open(archive, "w:gz") as made:
        member = tarfile.TarInfo("header")
        member.type, member.size = kind, 64 << 20
        made.addfile(member, io.BytesIO(bytes(member.size)))
    tracemalloc.start()
    assert refused(archive, folder, 1 << 30) == "archive-damaged"
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_a_directory_that_would_fill_the_memory(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive, "w") as made:
        for number in range(30_000):
            made.writestr(f"{number}", b"")
    assert refused(archive, folder) == "archive-members"


def test_a_tar_that_points_backwards(archive: Path, folder: Path) -> None:
    """A negative size would be read for ever."""
    member = tarfile.TarInfo("x")
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\xff" * 10 + b"\xfe\x00"  # base 256: -512
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    archive.write_bytes(bytes(block) + bytes(1024))
    assert refused(archive, folder) in ("archive-size", "archive-damaged")


@pytest.mark.parametrize("pack", PACKS)
def test_an_archive_cut_short_anywhere(archive: Path, folder: Path, pack: Pack) -> None:
    whole = pack(archive, FILES).read_bytes()
    end = len(whole.rstrip(b"\0")) if pack in (pack_tar, pack_gnu) else len(whole)
    cuts = [5, 100, 300, 512, 600, 1024, end // 2, end - 700, end - 20, end - 1]
    for cut in cuts:
        archive.write_bytes(whole[:cut])
        assert refused(archive, folder) in ("archive-damaged", "archive-kind")
        for path in folder.iterdir():
            path.unlink()


@pytest.mark.parametrize("pack", PACKS)
def test_an_archive_changed_inside(archive: Path, folder: Path, pack: Pack) -> None:
    content = bytearray(pack(archive, FILES).read_bytes())
    content[150_000] ^= 0xFF
    archive.write_bytes(content)
    if pack in (pack_tar, pack_gnu):  # a tar has no checksum of its contents
        unpack(archive, folder, max_bytes=MAX_BYTES)
    else:
        assert refused(archive, folder) == "archive-damaged"


def test_a_zip_whose_directory_points_nowhere(archive: Path, folder: Path) -> None:
    content = bytearray(pack_zip(archive, FILES).read_bytes())
    at = content.index(b"PK\x05\x06") + 16
    content[at : at + 4] = b"\xff\xff\xff\x7f"
    archive.write_bytes(content)
    assert refused(archive, folder) == "archive-damaged"


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    pack=st.sampled_from(PACKS),
    flips=st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 255)), min_size=1, max_size=6),
)
def test_no_damage_comes_out_as_another_error(
    tmp_path_factory: pytest.TempPathFactory,
    pack: Pack,
    flips: list[tuple[int, int]],
) -> None:
    place = tmp_path_factory.mktemp("flips")
    small = {CONFIG: b'{"r": 8}', WEIGHTS: bytes(range(256)) * 4}
    content = bytearray(pack(place / "archive", small).read_bytes())
    for at, change in flips:
        content[at % len(content)] ^= change
    (place / "archive").write_bytes(content)
    (place / "folder").mkdir()
    try:
        unpack(place / "archive", place / "folder", max_bytes=MAX_BYTES)
    except AdapterRejected as error:
        assert error.problems[0].code.startswith("archive-")
    assert {path.name for path in place.iterdir()} == {"archive", "folder"}


def test_trouble_with_our_own_disk_is_not_the_archives(archive: Path, folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        unpack(pack_zip(archive, FILES), folder / "missing", max_bytes=MAX_BYTES)


def test_from_an_upload_to_a_version(home: Path, adapter: Path, base: Base, archive: Path) -> None:
    with tarfile.open(archive, "w:gz") as made:
        made.add(adapter, "whatever")
    with Registry.open() as registry, registry.incoming() as folder:
        unpack(archive, folder, max_bytes=Limits().max_bytes)
        assert check_adapter(folder, base, Limits()) == []
        assert registry.publish(folder, "sent", base=base, origin="upload").number == 1
