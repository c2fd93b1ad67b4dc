"""Puts the registry right after a crash: every folder has its row, every leftover goes."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from pydantic import ValidationError

from registry.catalogue import Catalogue
from registry.files import sha256_of
from registry.manifest import MANIFEST_FILE, Manifest
from registry.settings import RegistrySettings
from registry.stage import Stage, discard, protect, sweep

_FOLDER = re.compile(r"(?P<number>[1-9]\d{0,8})-(?P<digest>[0-9a-f]{12})")


def recover(
    settings: RegistrySettings,
    catalogue: Catalogue,
    lock: Callable[[], AbstractContextManager[object]],
) -> None:
    """Sweep the stages, adopt whole versions without a row, delete what was removed, file records.

    Takes the registry's lock only where there is something to do. Raises OSError.
    """
    sweep(settings.staging)
    if not _astray(settings.adapters, catalogue) and not catalogue.unfiled():
        return
    with lock():
        for folder in _astray(settings.adapters, catalogue):
            path = settings.adapters / folder
            manifest = _whole(path)
            if manifest is None or folder in catalogue.folders():
                discard(path, settings.staging)
            else:
                protect(path)
                catalogue.add(manifest, folder)
        for version in catalogue.unfiled():
            with Stage(settings.staging) as stage:
                stage.write(version.manifest)
                stage.replace_manifest(version.path)
            catalogue.filed(version.name, version.number)


def _astray(adapters: Path, catalogue: Catalogue) -> list[str]:
    """Folders that look like versions but are not those of a live row, oldest number first."""
    rows = catalogue.folders()
    found = [
        f"{name.name}/{version.name}"
        for name in adapters.iterdir()
        if not name.name.startswith(".") and name.is_dir()
        for version in name.iterdir()
        if _FOLDER.fullmatch(version.name) and not rows.get(f"{name.name}/{version.name}")
    ]
    return sorted(found, key=lambda folder: int(folder.partition("/")[2].partition("-")[0]))


def _whole(folder: Path) -> Manifest | None:
    """The manifest of the version in `folder`, None where it is not exactly what that says."""
    match = _FOLDER.fullmatch(folder.name)
    assert match is not None
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST_FILE).read_bytes())
        same = all(
            sha256_of(folder / name) == identity.sha256 for name, identity in manifest.files.items()
        )
    except (OSError, ValidationError):
        return None
    named = (manifest.name, str(manifest.version)) == (folder.parent.name, match["number"])
    return manifest if same and named else None
