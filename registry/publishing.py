"""How an adapter becomes a version: staged, checked, made durable, and entered last."""

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from registry.adapter_folder import adapter_bytes, check_folder
from registry.base_fit import check_origin, check_tokenizer
from registry.bases import DEFAULT_BASE, Base
from registry.catalogue import Catalogue
from registry.disk import SPARE_BYTES, disk_full, translated
from registry.errors import AdapterRejected, BadReference
from registry.manifest import BaseIdentity, Manifest, content_digest
from registry.preflight import Inspection, Limits, inspect_adapter
from registry.problem import Problem
from registry.reference import Reference, check_name
from registry.settings import RegistrySettings
from registry.stage import Stage
from registry.storage import VersionStorage
from registry.version import Version


@dataclass(frozen=True)
class Provenance:
    """What a manifest says of where an adapter comes from, and whose it is."""

    origin: str
    training: dict[str, Any] | None
    data_digest: str | None
    evaluation: dict[str, Any] | None
    tenant: str | None


class Publisher:
    """Takes in adapters. `lock` lets one process of a data folder give out numbers at a time."""

    def __init__(
        self,
        settings: RegistrySettings,
        catalogue: Catalogue,
        storage: VersionStorage,
        lock: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self._settings, self._catalogue = settings, catalogue
        self._storage, self._lock = storage, lock

    def publish(
        self,
        folder: Path,
        name: str,
        base: Base,
        provenance: Provenance,
        limits: Limits,
        on_warning: Callable[[Problem], None] | None,
    ) -> tuple[Version, bool]:
        """The version, and whether it is a new one: the same content is the same version.

        Raises what `Registry.publish` does.
        """
        _check_free_name(name, base)
        if any(problem.severity == "error" for problem in check_folder(folder, limits.max_bytes)):
            raise _rejected(folder, inspect_adapter(folder, base, limits))
        with translated(self._settings, f"{name} cannot be published"):
            needed = adapter_bytes(folder) + SPARE_BYTES
            free = shutil.disk_usage(self._settings.staging).free
            if free < needed:
                raise disk_full(self._settings, needed, free)
        with (
            translated(self._settings, f"{name} cannot be published", needed),
            Stage(self._settings.staging) as stage,
        ):
            files = stage.take(folder)
            inspection = _inspect(folder, stage.folder, base, limits)
            if not inspection.accepted:
                raise _rejected(folder, inspection)
            if on_warning:
                for problem in inspection.problems:
                    on_warning(problem)
            digest = content_digest(files)
            self._catalogue.check_owner(name, provenance.tenant)
            self._storage.prepare(stage, files)  # of a version that exists too: one may be lost
            with self._lock():
                if existing := self._catalogue.find(name, digest, base.digest):
                    return existing, False
                number, owner = self._catalogue.reserve(name, provenance.tenant)
                assert inspection.config is not None
                assert inspection.weights is not None
                manifest = Manifest(
                    name=name,
                    version=number,
                    digest=digest,
                    created_at=datetime.now(UTC),
                    base=BaseIdentity(id=base.id, digest=base.digest, revision=base.revision),
                    rank=max(tensor.shape[0] for tensor in inspection.weights.a.values()),
                    alpha=inspection.config.alpha,
                    target_modules=inspection.weights.targets,
                    template_digest=base.template_digest,
                    tokenizer_digest=base.tokenizer_digest,
                    files=files,
                    origin=provenance.origin,
                    training=provenance.training,
                    data_digest=provenance.data_digest,
                    evaluation=provenance.evaluation,
                    tenant=owner,
                )
                self._storage.add(stage, manifest)
                is_new = self._catalogue.add(manifest, self._storage.commit)
                if not is_new:  # another machine was faster
                    self._storage.drop(manifest)
            found = self._catalogue.find(name, digest, base.digest)
            return found or self._catalogue.get(Reference(name, version=number)), is_new


def _inspect(folder: Path, staged: Path, base: Base, limits: Limits) -> Inspection:
    """All that can be wrong with the staged files, and with what lay beside them."""
    inspection = inspect_adapter(staged, base, limits)
    beside = [
        *check_origin(folder, None, base),
        *check_tokenizer(folder, base, limits.strict_tokenizer),
    ]
    return Inspection(inspection.problems + beside, inspection.config, inspection.weights)


def _check_free_name(name: str, base: Base) -> None:
    check_name(name)
    if name in {DEFAULT_BASE, base.id, base.id.rpartition("/")[2]}:
        raise BadReference(
            f"{name} is the base model's name", remedy="give the adapter a name of its own"
        )


def _rejected(folder: Path, inspection: Inspection) -> AdapterRejected:
    errors = [problem for problem in inspection.problems if problem.severity == "error"]
    more = f" (and {len(errors) - 1} more problems)" if len(errors) > 1 else ""
    return AdapterRejected(
        f"{folder.name} cannot be published: {errors[0].message}{more}",
        inspection.problems,
        remedy=errors[0].remedy,
    )
