"""What is written beside a published adapter: where it came from, what it is made of."""

import hashlib
import json
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MANIFEST_FILE = "manifest.json"
SCHEMA_VERSION = 1


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BaseIdentity(_Frozen):
    """The base model that the adapter belongs to; the digest decides, the id is for people."""

    id: str
    digest: str
    revision: str | None = None


class FileIdentity(_Frozen):
    """A file's content: lower-case hexadecimal SHA-256, and its length in bytes."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class Manifest(_Frozen):
    """All that is known of one version. Written last: where it is, the version is whole.

    `digest` is the content address, "sha256:" and 64 hexadecimal digits over the sorted names and
    digests of `files`. `training` holds settings, steps, tokens, seconds, seed and losses;
    `evaluation` the scores of base and adapter, `certificate` how close what is served comes to
    what was trained. These two may be added after the version was published; nothing else changes.
    `tenant` owns the adapter; everybody's has none, and is written as before there were tenants.
    """

    schema_version: Literal[1] = 1
    name: str
    version: int = Field(ge=1)
    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    created_at: datetime
    base: BaseIdentity
    rank: int = Field(ge=1)
    alpha: float
    target_modules: tuple[str, ...]
    template_digest: str
    tokenizer_digest: str
    files: dict[str, FileIdentity]
    origin: str
    training: dict[str, Any] | None = None
    data_digest: str | None = None
    evaluation: dict[str, Any] | None = None
    certificate: dict[str, Any] | None = None
    tenant: str | None = Field(default=None, exclude_if=lambda tenant: tenant is None)

    @property
    def place(self) -> str:
        """Where its files lie, relative to the others': `<name>/<number>-<digest12>`."""
        return f"{self.name}/{self.version}-{self.digest.partition(':')[2][:12]}"

    @property
    def total_bytes(self) -> int:
        """Bytes of the adapter's files together, the manifest itself not counted."""
        return sum(file.bytes for file in self.files.values())


def content_digest(files: dict[str, FileIdentity]) -> str:
    """The content address of an adapter: over the sorted names and digests of its files."""
    listing = json.dumps({name: file.sha256 for name, file in files.items()}, sort_keys=True)
    return "sha256:" + hashlib.sha256(listing.encode()).hexdigest()
