"""A published version of an adapter: the files on disk, what the manifest says, its aliases."""

from dataclasses import dataclass
from pathlib import Path

from registry.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable version.

    `path` is the absolute folder of the adapter's files, never reused and never rewritten; with a
    shared store they are in it while `Registry.fetch` lasts.
    `digest` is short ("sha256:" and 12 hexadecimal digits), the manifest has the whole one;
    `aliases` are those that pointed here when the version was read, `canaries` those that gave it
    a share of their requests, in per cent. `quarantine` is why it must not be served, None where it
    may be. `tenant` is whose it is, None where it is everybody's.
    """

    name: str
    number: int
    digest: str
    path: Path
    manifest: Manifest
    aliases: tuple[str, ...]
    canaries: tuple[tuple[str, int], ...] = ()
    quarantine: str | None = None
    tenant: str | None = None

    @property
    def reference(self) -> str:
        """The name that always means this version: `titulares@3`."""
        return f"{self.name}@{self.number}"
