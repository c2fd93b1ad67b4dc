"""The registry: adapter versions that never change, and aliases that do.

    with Registry.open() as registry:
        version = registry.publish(Path("out/adapter"), "titulares", base=base)
        registry.promote("titulares", version.number)
        with registry.fetch(registry.get("titulares")) as folder: ...

A version is staged, checked, and made durable in the data folder or a shared store before its row
is written; a crash at any point leaves a registry that works.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from registry.aliases import Alias, Aliases, Forced
from registry.bases import Base
from registry.catalogue import Catalogue
from registry.database import Database
from registry.disk import translated
from registry.errors import (
    AliasRefused,
    BadReference,
    RegistryUnavailable,
    StoreUnavailable,
    UnknownAdapter,
    UsageError,
)
from registry.finetuning.files import Files
from registry.finetuning.jobs import Jobs
from registry.finetuning.models import Models
from registry.finetuning.names import FINE_TUNED
from registry.finetuning.queue import Queue
from registry.gate import pass_gate
from registry.keys import Keys
from registry.manifest import Manifest
from registry.mirror import Mirror
from registry.preflight import Limits
from registry.problem import Problem
from registry.publishing import Provenance, Publisher
from registry.reference import LATEST, PROD, Reference, check_alias, check_name
from registry.settings import RegistrySettings
from registry.stage import Stage, sweep
from registry.standing import Standings
from registry.storage import open_storage
from registry.version import Version

logger = logging.getLogger(__name__)

LOCK_SECONDS = 120.0


class Registry:
    """Publish, find, promote and remove adapter versions. For many threads and processes."""

    def __init__(self, settings: RegistrySettings, database: Database) -> None:
        """Use `open` instead: it makes folders and tables, and puts right what a crash left."""
        self.settings = settings
        self._database = database
        self._storage, files = open_storage(settings, database)
        self._catalogue = Catalogue(database, self._storage.path)
        self._looking: list[Database] = []
        self._publisher = Publisher(settings, self._catalogue, self._storage, self._locked)
        self._aliases = Aliases(database)
        self.keys = Keys(database)
        self.files = Files(database, settings, files)
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

    @property
    def store_away_since(self) -> datetime | None:
        """Since when the shared store has not answered; None where it did when last asked."""
        return self._storage.away_since

    def ask_store(self) -> None:
        """See whether the shared store answers, if there is one. Raises StoreUnavailable."""
        self._storage.ask()

    def close(self) -> None:
        """Close the database's connections."""
        for database in (self._database, *self._looking):
            database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def mirror(self) -> Mirror:
        """The registry in memory, for a server that goes on when the database is away.

        It has connections of its own: no writer that waits for another keeps it from looking.
        """
        looking = Database(self.settings.url)
        self._looking.append(looking)
        return Mirror(looking, Catalogue(looking, self._storage.path))

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
        provenance = Provenance(origin, training, data_digest, evaluation, tenant)
        found, is_new = self._publisher.publish(
            folder, name, base, provenance, limits or Limits(), on_warning
        )
        return found if is_new else self.record(found.reference, evaluation=evaluation)

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
        given = {"evaluation": evaluation, "certificate": certificate}
        news = {key: value for key, value in given.items() if value is not None}
        if news:
            with (
                translated(self.settings, f"{found.reference} cannot be added to"),
                self._locked(),
                Stage(self.settings.staging) as stage,
            ):
                # A full disk is told before anything has changed.
                recorded = self._catalogue.record(found.name, found.number, news, stage.write)
                if recorded is not None:
                    self._file(stage, *recorded)
        return self.get(Reference(found.name, version=found.number))

    def promote(
        self,
        name: str,
        version: int,
        alias: str = PROD,
        *,
        canary: int | None = None,
        force: str | None = None,
        expected: int | None = None,
    ) -> Version:
        """Point `alias` at a version, which ends its canary; or give a share of it to `version`.

        `canary` is that share in per cent, 1 to 99. `force` is the reason to let a version pass
        that the gate (`registry.gate`) holds back; it is kept with what the gate said. The alias
        has to point at the version `expected` still, 0 for none, and to have no canary but
        `version`: else AliasMoved.
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
            self._aliases.promote(name, version, alias, forced, expected)
        else:
            self._aliases.start_canary(name, version, alias, canary, forced, expected)
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
            self._catalogue.remove(name, version, self._storage.release)
            self._storage.drop(found.manifest)

    def fetch(self, version: Version) -> AbstractContextManager[Path]:
        """The folder of a version's files, `version.path`, for as long as the context lasts.

        With a shared store they are brought to this machine first, and kept in its cache. They
        are read and compared with the manifest each time. Raises VersionDamaged, DiskFull,
        RegistryUnavailable, or StoreUnavailable where the store has to be asked and is away.
        """
        return self._storage.fetch(version)

    def verify(self, version: Version | Reference | str) -> Version:
        """Read a version's files again where they are kept: the shared store, not the cache.

        Raises VersionDamaged naming every difference.
        """
        found = version if isinstance(version, Version) else self.get(version)
        self._storage.verify(found)
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

    def _file(self, stage: Stage, manifest: Manifest, revision: int) -> None:
        """Bring a manifest's file to its row; without the store the next `open` does."""
        try:
            self._storage.record(stage, manifest)
        except StoreUnavailable as error:
            logger.warning("%s@%d: %s", manifest.name, manifest.version, error)
        else:
            self._catalogue.filed(manifest.name, manifest.version, revision)

    def _prepare(self) -> None:
        if not self._database.is_current():
            with self._locked():
                self._database.prepare()
        sweep(self.settings.staging)
        self._storage.recover(self._catalogue, self._locked)

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


def _check_movable(alias: str) -> None:
    if check_alias(alias) == LATEST:
        raise AliasRefused(
            "latest always points at the newest version", remedy="move another alias, prod for one"
        )
