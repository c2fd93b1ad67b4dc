"""The registry: adapter versions that never change, and aliases that do.

    with Registry.open() as registry:
        version = registry.publish(Path("out/adapter"), "titulares", base=base)
        registry.promote("titulares", version.number)
        registry.get("titulares").path

A version is staged, checked, made durable and renamed to `adapters/<name>/<number>-<digest12>`
before its row is written; a crash at any point leaves a registry that works: the next `open` adopts
a version that was whole, and sweeps what was not.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from registry.adapter_folder import adapter_bytes, check_folder
from registry.aliases import Alias, Aliases, Forced
from registry.base_fit import check_origin, check_tokenizer
from registry.bases import DEFAULT_BASE, Base
from registry.catalogue import Catalogue
from registry.database import Database
from registry.disk import SPARE_BYTES, disk_full, translated
from registry.errors import (
    AdapterRejected,
    AliasRefused,
    BadReference,
    RegistryUnavailable,
    UnknownAdapter,
    UsageError,
    VersionDamaged,
)
from registry.finetuning.files import Files
from registry.finetuning.jobs import Jobs
from registry.finetuning.models import Models
from registry.finetuning.names import FINE_TUNED
from registry.finetuning.queue import Queue
from registry.gate import pass_gate
from registry.keys import Keys
from registry.manifest import BaseIdentity, Manifest, content_digest
from registry.preflight import Inspection, Limits, inspect_adapter
from registry.problem import Problem
from registry.recovery import recover
from registry.reference import LATEST, PROD, Reference, check_alias, check_name
from registry.settings import RegistrySettings
from registry.stage import Stage, discard
from registry.standing import Standings
from registry.verification import damages
from registry.version import Version

LOCK_SECONDS = 120.0


class Registry:
    """Publish, find, promote and remove adapter versions. For many threads and processes."""

    def __init__(self, settings: RegistrySettings, database: Database) -> None:
        """Use `open` instead: it makes folders and tables, and puts right what a crash left."""
        self.settings = settings
        self._database = database
        self._catalogue = Catalogue(database, settings.adapters)
        self._aliases = Aliases(database)
        self.keys = Keys(database)
        self.files = Files(database, settings)
        self.jobs = Jobs(database)
        self.models = Models(database, self.remove)
        self.queue = Queue(database)
        self.standings = Standings(database)

    @classmethod
    def open(cls, settings: RegistrySettings | None = None) -> "Registry":
        """The registry of `settings` (default: the environment's). Raises RegistryUnavailable."""
        settings = settings or RegistrySettings()
        with translated(settings, "the registry cannot be opened"):
            settings.staging.mkdir(parents=True, exist_ok=True)
            registry = cls(settings, Database(settings.url))
            try:
                registry._prepare()
            except BaseException:
                registry.close()
                raise
        return registry

    def close(self) -> None:
        """Close the database's connections."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def get(self, reference: str | Reference, *, draw: float = 1.0) -> Version:
        """The version that `reference` means now; a bare name means `prod`, else the latest.

        The name of a fine-tuned model, `ft:…`, means the one version that its job made.

        `draw`, in [0, 1), is the place of a request (or of its user) among all: where the alias has
        a canary of p per cent, those below p / 100 get it, unless it is quarantined.
        Sees what other processes publish. Raises UnknownAdapter, for an ill-formed reference too.
        """
        if isinstance(reference, str):
            reference = self._parse(reference)
        return self._catalogue.get(reference, draw)

    def aliases(self, name: str) -> list[Alias]:
        """Where the aliases of an adapter point, by alias; `latest` is none of them.

        Raises UnknownAdapter or BadReference.
        """
        self.get(Reference(check_name(name)))
        return self._aliases.of(name)

    def list(self) -> list[Version]:
        """Every version, by name and number."""
        return self._catalogue.list()

    def publish(
        self,
        folder: Path,
        name: str,
        *,
        base: Base,
        origin: str = "train",
        training: dict[str, Any] | None = None,
        data_digest: str | None = None,
        evaluation: dict[str, Any] | None = None,
        tenant: str | None = None,
        limits: Limits | None = None,
        on_warning: Callable[[Problem], None] | None = None,
    ) -> Version:
        """Check the adapter in `folder` and publish a copy of its files as the next version.

        Where `name` already has this very content for this base, that version is returned, with
        this evaluation where there is one. A new name becomes `tenant`'s; without one it is
        everybody's.
        `on_warning` is told of each problem that does not stop it.
        Raises AdapterRejected with every problem, BadReference (also for a name that is another
        tenant's), DiskFull or RegistryUnavailable; nothing is published then.
        """
        _check_free_name(name, base)
        limits = limits or Limits()
        if any(problem.severity == "error" for problem in check_folder(folder, limits.max_bytes)):
            raise _rejected(folder, inspect_adapter(folder, base, limits))
        with translated(self.settings, f"{name} cannot be published"):
            needed = adapter_bytes(folder) + SPARE_BYTES
            free = shutil.disk_usage(self.settings.staging).free
            if free < needed:
                raise disk_full(self.settings, needed, free)
        with (
            translated(self.settings, f"{name} cannot be published", needed),
            Stage(self.settings.staging) as stage,
        ):
            files = stage.take(folder)
            inspection = inspect_adapter(stage.folder, base, limits)
            beside = [
                *check_origin(folder, None, base),
                *check_tokenizer(folder, base, limits.strict_tokenizer),
            ]
            inspection = Inspection(
                inspection.problems + beside, inspection.config, inspection.weights
            )
            if not inspection.accepted:
                raise _rejected(folder, inspection)
            if on_warning:
                for problem in inspection.problems:
                    on_warning(problem)
            assert inspection.config is not None
            assert inspection.weights is not None
            digest = content_digest(files)
            with self._locked():
                self._catalogue.check_owner(name, tenant)
                if existing := self._catalogue.find(name, digest, base.digest):
                    return self._add(existing, {"evaluation": evaluation})
                number, owner = self._catalogue.reserve(name, tenant)
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
                    origin=origin,
                    training=training,
                    data_digest=data_digest,
                    evaluation=evaluation,
                    tenant=owner,
                )
                place = f"{name}/{manifest.version}-{digest.partition(':')[2][:12]}"
                stage.move(manifest, self.settings.adapters / place)
                self._catalogue.add(manifest, place)
            return self.get(Reference(name, version=manifest.version))

    def record(
        self,
        reference: str | Reference,
        *,
        evaluation: dict[str, Any] | None = None,
        certificate: dict[str, Any] | None = None,
    ) -> Version:
        """Add an evaluation or a certificate to a version's manifest, in place of the one it had.

        Nothing else of a version ever changes. The row in the database decides; the next `open`
        writes a file that a crash left behind it.
        Raises UnknownAdapter, DiskFull or RegistryUnavailable; nothing is recorded then.
        """
        found = self.get(reference)
        with translated(self.settings, f"{found.reference} cannot be added to"), self._locked():
            return self._add(found, {"evaluation": evaluation, "certificate": certificate})

    def promote(
        self,
        name: str,
        version: int,
        alias: str = PROD,
        *,
        canary: int | None = None,
        force: str | None = None,
    ) -> Version:
        """Point `alias` at a version, which ends its canary; or give a share of it to `version`.

        `canary` is that share in per cent, 1 to 99. `force` is the reason to let a version pass
        that the gate (`registry.gate`) holds back; it is kept with what the gate said.
        Raises UnknownAdapter, BadReference, UsageError, or AliasRefused where the gate holds the
        version back or it is quarantined, and for a canary where the alias points nowhere yet or at
        that version already.
        """
        _check_movable(alias)
        found = self.get(Reference(check_name(name), version=version))
        if found.quarantine is not None:
            raise AliasRefused(
                f"{found.reference} is quarantined: {found.quarantine}",
                remedy=f"once that is mended: lorikeet adapters release {found.reference}",
            )
        if canary is not None and not 1 <= canary <= 99:
            raise UsageError(
                f"a canary cannot take {canary} % of the requests",
                remedy="give it 1 to 99 %, or promote the version whole",
            )
        forced = pass_gate(
            found, alias, force, require_certificate=self.settings.require_certificate
        )
        if canary is None:
            self._aliases.promote(name, version, alias, forced)
        else:
            self._aliases.start_canary(name, version, alias, canary, forced)
        return self.get(Reference(name, version=version))

    def forced(self, reference: str | Reference) -> tuple[Forced, ...]:
        """The promotions of a version that the gate would have refused, the oldest first.

        Raises UnknownAdapter.
        """
        found = self.get(reference)
        return tuple(self._aliases.forced(found.name, found.number))

    def rollback(self, name: str, alias: str = PROD) -> Version:
        """End the canary of `alias` if it has one, else point it at what it pointed to before.

        Repeated, it goes further back; versions removed or quarantined since are passed over.
        Raises UnknownAdapter, BadReference, or AliasRefused where there is nothing before.
        """
        _check_movable(alias)
        self.get(Reference(check_name(name)))
        return self.get(Reference(name, version=self._aliases.rollback(name, alias)))

    def quarantine(self, name: str, number: int, reason: str) -> None:
        """Keep a version from being served, by any server, until it is released.

        The first reason stays. Raises UnknownAdapter or BadReference.
        """
        self.get(Reference(check_name(name), version=number))
        self._catalogue.quarantine(name, number, reason)

    def release(self, name: str, number: int) -> Version:
        """Let a version be served again. Raises UnknownAdapter or BadReference."""
        self.get(Reference(check_name(name), version=number))
        self._catalogue.release(name, number)
        return self.get(Reference(name, version=number))

    @contextmanager
    def incoming(self) -> Iterator[Path]:
        """A fresh private folder for an upload, on the registry's disk; gone at the end.

        Raises DiskFull or RegistryUnavailable.
        """
        with (
            translated(self.settings, "the upload cannot be stored"),
            Stage(self.settings.staging) as stage,
        ):
            yield stage.folder

    def remove(self, name: str, version: int) -> None:
        """Delete a version; its number is never used again.

        Raises UnknownAdapter, or AliasRefused while an alias other than `latest`, or a canary,
        points at it.
        """
        found = self.get(Reference(check_name(name), version=version))
        with translated(self.settings, f"{name}@{version} cannot be removed"), self._locked():
            self._catalogue.remove(name, version)
            if found.path.is_dir():
                discard(found.path, self.settings.staging)

    def verify(self, version: Version | Reference | str) -> Version:
        """Read a version's files again; raises VersionDamaged naming every difference."""
        found = version if isinstance(version, Version) else self.get(version)
        if damage := damages(found):
            raise VersionDamaged(
                f"{found.reference} is damaged: {'; '.join(damage)}",
                remedy=f"remove it (lorikeet adapters remove {found.reference}) "
                "and publish the adapter again",
            )
        return found

    def _parse(self, text: str) -> Reference:
        if text.startswith(FINE_TUNED):
            model = self.models.find(text)
            if model is None:
                raise UnknownAdapter(
                    f"there is no fine-tuned model {text[:320]!r}",
                    remedy="lorikeet jobs list names those that there are",
                )
            return Reference(model.adapter, version=model.number)
        try:
            return Reference.parse(text)
        except BadReference as error:
            raise UnknownAdapter(error.message, remedy=error.remedy) from error

    def _add(self, version: Version, news: dict[str, Any]) -> Version:
        """Record what of `news` is not None. The caller holds the lock."""
        news = {key: value for key, value in news.items() if value is not None}
        found = self.get(Reference(version.name, version=version.number))
        if news:
            manifest = found.manifest.model_copy(update=news)
            with Stage(self.settings.staging) as stage:
                stage.write(manifest)  # a full disk is told before anything has changed
                self._catalogue.replace_manifest(manifest)
                stage.replace_manifest(found.path)
            self._catalogue.filed(found.name, found.number)
        return self.get(Reference(found.name, version=found.number))

    def _prepare(self) -> None:
        if not self._database.is_current():
            with self._locked():
                self._database.prepare()
        recover(self.settings, self._catalogue, self._locked)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One publisher at a time gives out numbers and moves folders."""
        lock = FileLock(self.settings.adapters / ".lock", timeout=LOCK_SECONDS)
        try:
            lock.acquire()
        except Timeout as error:
            raise RegistryUnavailable(
                f"another process has held the registry for {LOCK_SECONDS:.0f} seconds",
                remedy=f"end it (it locks {self.settings.adapters / '.lock'}), then try again",
            ) from error
        try:
            yield
        finally:
            lock.release()


def _check_free_name(name: str, base: Base) -> None:
    check_name(name)
    if name in {DEFAULT_BASE, base.id, base.id.rpartition("/")[2]}:
        raise BadReference(
            f"{name} is the base model's name", remedy="give the adapter a name of its own"
        )


def _check_movable(alias: str) -> None:
    if check_alias(alias) == LATEST:
        raise AliasRefused(
            "latest always points at the newest version", remedy="move another alias, prod for one"
        )


def _rejected(folder: Path, inspection: Inspection) -> AdapterRejected:
    errors = [problem for problem in inspection.problems if problem.severity == "error"]
    more = f" (and {len(errors) - 1} more problems)" if len(errors) > 1 else ""
    return AdapterRejected(
        f"{folder.name} cannot be published: {errors[0].message}{more}",
        inspection.problems,
        remedy=errors[0].remedy,
    )
