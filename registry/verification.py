"""Whether a version's files are still those that were published."""

from registry.files import sha256_of, without_path
from registry.manifest import MANIFEST_FILE, Manifest
from registry.version import Version


def damages(version: Version) -> list[str]:
    """Every difference between a version's folder and its manifest, a line each.

    What is recorded after publishing is not compared: the row in the database decides, and the
    file may be a moment behind, or before what a server read.
    """
    found = []
    wanted = {name: file.sha256 for name, file in version.manifest.files.items()}
    wanted[MANIFEST_FILE] = ""
    try:
        there = {path.name for path in version.path.iterdir()}
        found += [f"{name} is missing" for name in sorted(wanted.keys() - there)]
        found += [f"{name} was added" for name in sorted(there - wanted.keys())]
        for name in sorted(wanted.keys() & there):
            if name == MANIFEST_FILE:
                written = Manifest.model_validate_json((version.path / name).read_bytes())
                same = _as_published(written) == _as_published(version.manifest)
            else:
                same = sha256_of(version.path / name) == wanted[name]
            found += [] if same else [f"{name} was changed"]
    except (OSError, ValueError) as error:
        found.append(without_path(error))
    return found


def _as_published(manifest: Manifest) -> Manifest:
    return manifest.model_copy(update={"evaluation": None, "certificate": None})
