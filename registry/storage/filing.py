"""The file of a version's manifest, brought to what its row has."""

from pathlib import Path
from typing import TYPE_CHECKING

from registry.stage import Stage
from registry.storage import VersionStorage

if TYPE_CHECKING:
    from registry.catalogue import Catalogue


def file_manifests(catalogue: "Catalogue", storage: VersionStorage, staging: Path) -> None:
    """Write each that is behind. Raises what `record` of the storage does."""
    for version, revision in catalogue.unfiled():
        with Stage(staging) as stage:
            stage.write(version.manifest)
            storage.record(stage, version.manifest)
        catalogue.filed(version.name, version.number, revision)
