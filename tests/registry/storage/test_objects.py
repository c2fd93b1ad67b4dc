"""What a store says, and what we say of it: every refusal has its remedy, and nothing hangs."""

import errno
import os
import socket
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from object_store import Folder, Store

from registry import RegistryUnavailable
from registry.errors import StoreUnavailable
from registry.storage import objects as module
from registry.storage.objects import Objects

REFUSAL = "<Error><Code>{}</Code><Message>refused</Message></Error>"
CALLS = ["size", "content", "delete", "keys"]


class Refusing:
    """An S3 server that signs no request off, at some time of its own."""

    def __init__(self) -> None:
        self.code, self.ahead = "AccessDenied", 0.0
        this = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = REFUSAL.format(this.code).encode()
                self.send_response_only(403)
                self.send_header("Date", formatdate(time.time() + this.ahead, usegmt=True))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def do_PUT(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.do_GET()

            do_HEAD = do_DELETE = do_GET

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def end(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Refusing]:
    server = Refusing()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "lorikeet")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    yield server
    server.end()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"content")
    return path


def test_an_object_is_created_once(store: Store, source: Path) -> None:
    objects = Objects(store.url)
    assert objects.size("a/b") is None
    assert objects.content("a/b") is None
    assert objects.keys("a/") == []
    objects.delete("a/b")
    assert objects.create(source, "a/b")
    assert not objects.create(source.parent / "source", "a/b")
    assert (objects.size("a/b"), objects.read("a/b", 1, 4)) == (7, b"ont")
    assert objects.keys("a/") == ["a/b"]
    source.write_bytes(b"another")
    assert not objects.create(source, "a/b")
    assert store.read("a/b") == b"content"
    objects.replace(source, "a/b")
    assert objects.content("a/b") == b"another"
    objects.delete("a/b")
    assert store.objects() == []


def test_of_many_that_create_one_does(store: Store, source: Path) -> None:
    objects = Objects(store.url)
    objects.size("a")
    barrier, made = threading.Barrier(4), []

    def create() -> None:
        barrier.wait()
        made.append(objects.create(source, "a"))

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False, False, False, True]


def test_what_a_killed_writer_left_in_a_folder_goes_after_a_day(
    tmp_path: Path, source: Path
) -> None:
    folder = Folder(tmp_path / "store")
    folder.write(".parts/old", b"half")
    folder.write(".parts/young", b"half")
    os.utime(tmp_path / "store/.parts/old", (0, 0))
    Objects(folder.url).create(source, "a")
    assert folder.objects() == [".parts/young", "a"]


def test_a_bucket_that_is_not_there(store: Store) -> None:
    objects = Objects(store.url)
    assert objects.away_since is None
    store.vanish()
    with pytest.raises(StoreUnavailable):
        objects.size("a")
    since = objects.away_since
    for call in CALLS:
        with pytest.raises(StoreUnavailable, match="there is no store") as caught:
            getattr(objects, call)("a/")
        assert "LORIKEET_STORE_URL" in str(caught.value.remedy)
        assert isinstance(caught.value, RegistryUnavailable)
    assert objects.away_since == since is not None
    store.come_back()
    objects.size("a")
    assert objects.away_since is None


def test_a_folder_whose_disk_is_full_keeps_nothing(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(tmp_path / "store")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreUnavailable, match="is full"):
        Objects(folder.url).create(source, "a")
    assert folder.objects() == []


def test_a_folder_without_hard_links_is_told(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(tmp_path / "store")

    def refuse(old: Path, new: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted", str(old), None, str(new))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StoreUnavailable, match="without hard links") as caught:
        Objects(folder.url).create(source, "a")
    assert "NFS" in str(caught.value.remedy)
    assert folder.objects() == []


def test_who_may_not(s3: Refusing) -> None:
    objects = Objects("s3://bucket/team")
    for call in CALLS:
        with pytest.raises(StoreUnavailable, match="refuses") as caught:
            getattr(objects, call)("a/")
        assert "credentials" in str(caught.value.remedy)


@pytest.mark.parametrize("ahead", [3600, -7200])
def test_a_clock_that_is_wrong_is_told(s3: Refusing, ahead: float) -> None:
    s3.code, s3.ahead = "RequestTimeTooSkewed", ahead
    objects = Objects("s3://bucket/team")
    for call in CALLS:
        with pytest.raises(StoreUnavailable, match="this machine's clock is") as caught:
            getattr(objects, call)("a/")
        assert f"{-ahead / 60:+.0f} minutes" in caught.value.message
        assert "NTP" in str(caught.value.remedy)


def test_credentials_that_are_not_there(s3: Refusing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    with pytest.raises(StoreUnavailable, match="no credentials") as caught:
        Objects("s3://bucket/team").size("a")
    assert "AWS_ACCESS_KEY_ID" in str(caught.value.remedy)


def test_a_store_that_hangs_is_not_waited_for(
    s3: Refusing, monkeypatch: pytest.MonkeyPatch, source: Path
) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts, and says nothing
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        objects = Objects("s3://bucket/team")
        for call in (lambda: objects.size("a"), lambda: objects.create(source, "a")):
            with pytest.raises(StoreUnavailable, match="does not answer") as caught:
                call()
            assert "cached" in str(caught.value.remedy)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreUnavailable, match="does not answer"):
        Objects("s3://bucket/team").size("a")


@pytest.mark.parametrize("url", ["bucket", "s3://", "s3:///", "nfs4x://a/b", "file://"])
def test_what_is_no_url_of_a_store(url: str) -> None:
    with pytest.raises(StoreUnavailable, match="LORIKEET_STORE_URL") as caught:
        Objects(url)
    assert "s3://bucket/prefix" in str(caught.value.remedy)


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(StoreUnavailable, match="s3fs") as caught:
        Objects("s3://bucket/team")
    assert "pip install s3fs" in str(caught.value.remedy)
