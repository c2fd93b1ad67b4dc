"""Content in the shared store, under its own digest: `sha256/<2>/<hex>`. It never changes."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from registry.errors import BlobDamaged
from registry.manifest import FileIdentity
from registry.storage.objects import Objects

CHUNK_BYTES = 16 << 20


def key_of(identity: FileIdentity) -> str:
    """The key of a content."""
    return f"sha256/{identity.sha256[:2]}/{identity.sha256}"


class Blobs:
    """Puts and gets content, and believes no store. Raises StoreUnavailable throughout."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def put(self, source: Path, identity: FileIdentity) -> None:
        """Bring the content of `source`; what is there already is left as it is.

        It is read back, whoever wrote it. Raises BlobDamaged where that is another content.
        """
        if not self.has(identity):
            self._objects.create(source, key_of(identity))
        self.check(identity)

    def has(self, identity: FileIdentity) -> bool:
        """Whether there is something of this size."""
        return self._objects.size(key_of(identity)) == identity.bytes

    def get(self, identity: FileIdentity, target: BinaryIO) -> None:
        """Write the content to `target`. Raises BlobDamaged, when all is written perhaps."""
        for piece in self._pieces(identity):
            target.write(piece)

    def check(self, identity: FileIdentity) -> None:
        """Read the content whole. Raises BlobDamaged."""
        for _ in self._pieces(identity):
            pass

    def _pieces(self, identity: FileIdentity) -> Iterator[bytes]:
        key, digest = key_of(identity), hashlib.sha256()
        size = self._objects.size(key)
        if size is None:
            raise self._damaged(key, "is missing")
        if size == identity.bytes:
            for start in range(0, size, CHUNK_BYTES):
                piece = self._objects.read(key, start, min(start + CHUNK_BYTES, size))
                digest.update(piece)
                yield piece
        if size != identity.bytes or digest.hexdigest() != identity.sha256:
            raise self._damaged(key, "was changed")

    @staticmethod
    def _damaged(key: str, what: str) -> BlobDamaged:
        return BlobDamaged(
            f"{key} in the shared store {what}",
            remedy="bring it back from a backup; or delete it, and publish or upload it again",
        )
