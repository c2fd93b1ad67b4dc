"""Whether a version's files are still those that were published."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from registry.errors import VersionDamaged
from registry.files import sha256_of, without_path
from registry.manifest import FileIdentity, Manifest
from registry.version import Version


def folder_damages(
    folder: Path, files: Mapping[str, FileIdentity], beside: Sequence[str] = ()
) -> list[str]:
    """Every difference between a folder and the `files` it should hold, a line each.

    Of those `beside` them only the names count.
    """
    found = []
    wanted = {*files, *beside}
    try:
        there = {path.name for path in folder.iterdir()}
        found += [f"{name} is missing" for name in sorted(wanted - there)]
        found += [f"{name} was added" for name in sorted(there - wanted)]
        for name in sorted(files.keys() & there):
            if sha256_of(folder / name) != files[name].sha256:
                found.append(f"{name} was changed")
    except OSError as error:
        found.append(without_path(error))
    return found


def is_as_published(version: Version, content: bytes) -> bool:
    """Whether a manifest file's content is the version's.

    What is recorded after publishing is not compared: the row in the database decides, and the
    file may be a moment behind, or before what a server read.
    """
    try:
        written = Manifest.model_validate_json(content)
    except ValidationError:
        return False
    return _as_published(written) == _as_published(version.manifest)


def damaged(version: Version, damages: Sequence[str], remedy: str | None = None) -> VersionDamaged:
    """The error that names every difference; `remedy` where it is another than to remove it."""
    return VersionDamaged(
        f"{version.reference} is damaged: {'; '.join(damages)}",
        remedy=remedy
        or f"remove it (lorikeet adapters remove {version.reference}) "
        "and publish the adapter again",
    )


def _as_published(manifest: Manifest) -> Manifest:
    return manifest.model_copy(update={"evaluation": None, "certificate": None})
