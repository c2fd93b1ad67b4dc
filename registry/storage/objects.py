"""Named objects under a URL: the only place that talks to fsspec, and maps its exceptions.

`s3://bucket/prefix`, `gs://…`, `file:///…`. Endpoints and credentials come from where those
libraries look for them (AWS_*, FSSPEC_S3_*). Nothing waits for a store without a bound.
"""

import copy
import errno
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec
from fsspec.asyn import sync
from fsspec.config import conf
from fsspec.registry import known_implementations

from registry.disk import is_full
from registry.errors import StoreUnavailable
from registry.storage.durable_folder import DurableFolder

SECONDS = 10.0
"""What an answer takes at most, besides the time for its bytes."""

_SLOWEST = 1 << 20  # bytes a second
_ATTEMPTS = 2
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        "skip_instance_cache": True,
        "use_listings_cache": False,
        "max_concurrency": 4,
        "config_kwargs": {
            "connect_timeout": 3,
            "read_timeout": 5,
            "retries": {"total_max_attempts": _ATTEMPTS},
        },
    }
}
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
_MOST_SKEW = timedelta(minutes=5)


class Objects:
    """Writes, reads and deletes objects by their key. For many threads.

    Every method raises StoreUnavailable.
    """

    def __init__(self, url: str) -> None:
        """Nothing is asked yet; raises StoreUnavailable for a URL that cannot be one."""
        self.url = url.rstrip("/")
        self._protocol, self._root = _parse(self.url)
        is_folder = self._protocol == "file"
        self._bucket = self._root if is_folder else self._root.partition("/")[0]
        self.away_since: datetime | None = None
        """Since when every request has failed; None where the last one was answered."""

    def ask(self) -> None:
        """See whether there is an answer."""
        with self._asked():
            self._ask("info", self._bucket)

    def create(self, source: Path, key: str) -> bool:
        """Write what is in `source`, unless the object is there; whether it was not."""
        size = source.stat().st_size
        with self._asked():
            for _ in range(_ATTEMPTS):
                try:
                    self._ask("put_file", str(source), self._at(key), size=size, mode="create")
                    return True
                except FileExistsError:
                    return False
                except OSError as error:
                    if _code(error) != "ConditionalRequestConflict":
                        raise
            raise OSError("several writers were at it at once")

    def replace(self, source: Path, key: str) -> None:
        """Write what is in `source`, in the place of what is there."""
        with self._asked():
            self._ask("put_file", str(source), self._at(key), size=source.stat().st_size)

    def size(self, key: str) -> int | None:
        """Bytes of an object, None where there is none."""
        with self._asked():
            try:
                return int(self._ask("info", self._at(key))["size"])
            except FileNotFoundError:
                self._ask("info", self._bucket)  # its loss is not the object's
                return None

    def read(self, key: str, start: int, end: int) -> bytes:
        """The bytes from `start` to before `end`, or to where the object ends."""
        with self._asked():
            piece: bytes = self._ask(
                "cat_file", self._at(key), size=end - start, start=start, end=end
            )
            return piece

    def content(self, key: str) -> bytes | None:
        """A small object whole, None where there is none."""
        with self._asked():
            try:
                content: bytes = self._ask("cat_file", self._at(key))
                return content
            except FileNotFoundError:
                self._ask("info", self._bucket)
                return None

    def delete(self, key: str) -> None:
        """Delete an object, if it is there."""
        with self._asked():
            try:
                self._ask("rm_file", self._at(key))
            except FileNotFoundError:
                self._ask("info", self._bucket)

    def keys(self, prefix: str) -> list[str]:
        """The keys below a prefix, which ends with a slash."""
        with self._asked():
            self._ask("info", self._bucket)
            found: list[str] = self._ask("find", self._at(prefix))
            return [path.removeprefix(f"{self._root}/") for path in found]

    @cached_property
    def _files(self) -> Any:
        """The file system; its library is imported when it is first needed."""
        if self._protocol == "file":
            return DurableFolder(self._root)
        options = copy.deepcopy(_OPTIONS.get(self._protocol, {}))
        files = fsspec.filesystem(self._protocol, **options | conf.get(self._protocol, {}))
        if self._protocol == "s3":
            files.retries = _ATTEMPTS
        return files

    def _ask(self, method: str, *arguments: str, size: int = 0, **options: Any) -> Any:
        """Call a method that moves `size` bytes; a store has so long for all of it."""
        if not self._files.async_impl:
            return getattr(self._files, method)(*arguments, **options)
        seconds = SECONDS + size / _SLOWEST
        asked = getattr(self._files, f"_{method}")
        return sync(self._files.loop, asked, *arguments, timeout=seconds, **options)

    def _at(self, key: str) -> str:
        return f"{self._root}/{key}"

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Turn what the libraries raise into ours, and remember whether there was an answer."""
        try:
            if self._protocol == "file":
                self._ask("info", self._root)  # an empty folder may be where nothing is mounted
            yield
        except Exception as error:
            self.away_since = self.away_since or datetime.now(UTC)
            raise _told(self.url, error) from error
        self.away_since = None


def _parse(url: str) -> tuple[str, str]:
    """Protocol and path of a URL whose library is installed. Raises StoreUnavailable."""
    protocol, _, path = url.partition("://")
    if not path.strip("/") or protocol not in known_implementations:
        raise StoreUnavailable(
            f"LORIKEET_STORE_URL is not usable: {url!r} names no bucket or folder",
            remedy="write s3://bucket/prefix, gs://bucket/prefix or file:///folder",
        )
    package = _PACKAGES.get(protocol)
    if package and importlib.util.find_spec(package) is None:
        raise StoreUnavailable(
            f"the package {package} is needed for {protocol}://", remedy=f"pip install {package}"
        )
    return protocol, path


def _told(url: str, error: Exception) -> StoreUnavailable:
    """What went wrong, with its remedy."""
    skew = _skew(error)
    if skew is not None:
        return StoreUnavailable(
            f"this machine's clock is {skew.total_seconds() / 60:+.0f} minutes off: the store {url}"
            " refuses what it signs",
            remedy="set the clock, and have it kept right (NTP)",
        )
    if _is_without_credentials(error):
        return StoreUnavailable(
            f"there are no credentials for the store {url}",
            remedy="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role",
        )
    if _is_without_links(error):
        return StoreUnavailable(
            f"the store {url} is on a file system without hard links",
            remedy="take another one (a local disk, NFS, CephFS; not SMB), or an object store",
        )
    if isinstance(error, PermissionError):
        return StoreUnavailable(
            f"the store {url} refuses: {error}",
            remedy="check the credentials, and that they may list, read, write and delete there",
        )
    if isinstance(error, FileNotFoundError):
        return StoreUnavailable(
            f"there is no store {url}",
            remedy="make the bucket or folder, mount it, or correct LORIKEET_STORE_URL",
        )
    if is_full(error):
        return StoreUnavailable(f"the store {url} is full", remedy="make some room there")
    return StoreUnavailable(
        f"the store {url} does not answer: {str(error) or type(error).__name__}",
        remedy="check the store and the way to it; what is cached here can be used meanwhile",
    )


def _response(error: BaseException) -> dict[str, Any]:
    """S3's answer behind an error; empty where there is none."""
    found = getattr(error.__cause__ or error, "response", None)
    return found if isinstance(found, dict) else {}


def _code(error: BaseException) -> str | None:
    code = _response(error).get("Error", {}).get("Code")
    return code if isinstance(code, str) else None


def _skew(error: Exception) -> timedelta | None:
    """How far this machine's clock is ahead of the store's, where that is why it refuses."""
    if not isinstance(error, PermissionError):
        return None
    headers = _response(error).get("ResponseMetadata", {}).get("HTTPHeaders", {})
    try:
        skew = datetime.now(UTC) - parsedate_to_datetime(headers["date"])
    except (KeyError, TypeError, ValueError):
        return None
    return skew if abs(skew) > _MOST_SKEW else None


def _is_without_links(error: Exception) -> bool:
    """Whether a file could not be given a second name, by a folder where others can be written."""
    if not isinstance(error, OSError) or error.filename2 is None:
        return False
    return error.errno in {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}


def _is_without_credentials(error: Exception) -> bool:
    if importlib.util.find_spec("botocore") is None:
        return False
    from botocore import exceptions as boto

    return isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError)
