"""The registry as a server has it in memory: names, versions, aliases, keys. No database needed.

    mirror = registry.mirror()
    mirror.take(mirror.read())    # all there is; from then on what has changed
    mirror.get("titulares", draw=0.3)

`read` waits for the database and may run in another thread; the rest belongs to one. What a server
knew when the database went away goes on to be true for it until the database is back.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, bindparam, func, select

from registry import migrations
from registry.catalogue import Catalogue
from registry.database import Database
from registry.errors import BadReference, UnknownAdapter
from registry.finetuning.models import model_of
from registry.finetuning.objects import Model
from registry.finetuning.tables import ModelRow
from registry.keys import Key, StoredKey, opened_by, stored
from registry.reference import LATEST, PROD, Reference
from registry.tables import ChangeRow, KeyRow
from registry.version import Version

logger = logging.getLogger(__name__)

NOTHING_READ = -1
KEY = "key:"
MOST_ONE_BY_ONE = 500
"""Changes that are read by their names; more of them are read with everything else."""


class _Adapter:
    """All that a name means."""

    def __init__(self, versions: Sequence[Version], models: Sequence[Model]) -> None:
        self.versions = {version.number: version for version in versions}
        self.models = models
        self._aliases = {alias: version for version in versions for alias in version.aliases}
        self._canaries = {
            alias: (version, percent)
            for version in versions
            if version.quarantine is None
            for alias, percent in version.canaries
        }

    def meant(self, reference: Reference, draw: float) -> Version | None:
        if reference.version is not None:
            return self.versions.get(reference.version)
        alias = reference.alias or (PROD if PROD in self._aliases else LATEST)
        canary, percent = self._canaries.get(alias, (None, 0))
        return canary if draw < percent / 100 else self._aliases.get(alias)


@dataclass(frozen=True, slots=True)
class News:
    """The adapters and keys that have changed, as they are at change `number`; `whole`: all.

    `unreadable` are the adapters that a later Lorikeet wrote in a way not known here.
    The database's clock said `now` when the monotonic clock was at `at`; its tables are those of
    `revision`.
    """

    number: int
    whole: bool
    adapters: dict[str, _Adapter]
    unreadable: set[str]
    keys: dict[str, StoredKey | None]
    now: datetime
    at: float
    revision: str


class Mirror:
    """What the database had said when `take` was last called."""

    def __init__(self, database: Database, catalogue: Catalogue) -> None:
        self._database = database
        self._catalogue = catalogue
        self._number = NOTHING_READ
        self._adapters: dict[str, _Adapter] = {}
        self._models: dict[str, Model] = {}
        self._keys: dict[str, StoredKey] = {}
        self._had_keys = False
        self._doubted = False
        self._now, self._at = datetime.min.replace(tzinfo=UTC), 0.0
        self.revision = migrations.HEAD

    def read(self) -> News:
        """What has changed since the last `take`; mostly nothing, which is told soon.

        Raises RegistryUnavailable.
        """
        with self._database.reading() as rows:
            at = time.monotonic()
            newest, revision = rows.execute(_NEWEST).one()
            now, number = self._database.now(rows), newest or 0
            names, ids = self._changed(rows, number)
            unreadable = set[str]()
            return News(
                number,
                names is None,
                self._read_adapters(rows, names, unreadable),
                unreadable,
                _read_keys(rows, ids),
                now,
                at,
                revision,
            )

    def doubt(self) -> None:
        """The database was away, and may have been set back: read all of it the next time."""
        self._doubted = True

    def take(self, news: News) -> None:
        """Have what was read; of what cannot be read, what was known before."""
        for name in news.unreadable:
            logger.error(
                "%s is not served as it is now: it needs a later version of lorikeet", name
            )
        adapters = news.adapters
        if news.whole:
            gone = self._adapters.keys() - adapters.keys() - news.unreadable
            adapters = adapters | {name: _Adapter((), ()) for name in gone}
            self._keys = {}
            self._doubted = False
        for name, adapter in adapters.items():
            before = self._adapters.pop(name, None)
            for model in before.models if before is not None else ():
                self._models.pop(model.name, None)
            self._adapters[name] = adapter
            self._models |= {model.name: model for model in adapter.models}
        for key_id, key in news.keys.items():
            if key is None:
                self._keys.pop(key_id, None)
            else:
                self._keys[key_id] = key
        self._had_keys |= bool(news.keys)
        self._number, self.revision = news.number, news.revision
        self._now, self._at = news.now, news.at

    @property
    def read_once(self) -> bool:
        """Whether there was a first `take`."""
        return self._number != NOTHING_READ

    @property
    def now(self) -> datetime:
        """The time by the database's clock, in UTC; it goes on while the database is away."""
        return self._now + timedelta(seconds=time.monotonic() - self._at)

    def get(self, reference: str | Reference, *, draw: float = 1.0) -> Version:
        """As `Registry.get`. Raises UnknownAdapter."""
        if isinstance(reference, str):
            reference = self._parse(reference)
        adapter = self._adapters.get(reference.name)
        found = None if adapter is None else adapter.meant(reference, draw)
        if found is None:
            raise UnknownAdapter(f"there is no adapter {reference}")
        return found

    def versions(self) -> list[Version]:
        """Every version, by name and number."""
        return [
            version
            for name in sorted(self._adapters)
            for version in self._adapters[name].versions.values()
        ]

    def models(self, tenant: str | None) -> list[Model]:
        """The fine-tuned models of a tenant, None for all, by the time that they were made."""
        mine = [model for model in self._models.values() if tenant in (None, model.tenant)]
        return sorted(mine, key=lambda model: (model.created_at, model.name))

    @property
    def has_keys(self) -> bool:
        """Whether any key was ever made; a revoked one counts.

        What once had keys is not open to all again because its database is made anew.
        """
        return self._had_keys

    def key(self, secret: str) -> Key | None:
        """The active key of that secret, None where there is none; an unknown id takes as long."""
        key = opened_by(secret, self._keys.get)
        return key if key is not None and key.is_active(self.now) else None

    def _parse(self, text: str) -> Reference:
        if model := self._models.get(text):
            return Reference(model.adapter, version=model.number)
        try:
            return Reference.parse(text)
        except BadReference as error:
            raise UnknownAdapter(error.message) from error

    def _changed(self, rows: Connection, number: int) -> tuple[list[str] | None, list[str] | None]:
        """The adapters and the keys' ids that changed; None where all is to be read.

        That is at first, after many changes, and of a database that was away or set back to a
        backup.
        """
        if not self.read_once or self._doubted or number < self._number:
            return None, None
        if number == self._number:
            return [], []
        subjects = rows.scalars(_SINCE, {"number": self._number}).all()
        if len(subjects) > MOST_ONE_BY_ONE:
            return None, None
        ids = [subject.removeprefix(KEY) for subject in subjects if subject.startswith(KEY)]
        return [subject for subject in subjects if not subject.startswith(KEY)], ids

    def _read_adapters(
        self, rows: Connection, names: Collection[str] | None, unreadable: set[str]
    ) -> dict[str, _Adapter]:
        """What those names mean now, which may be nothing; None: all that mean something."""
        if names is not None and not names:
            return {}
        wanted = select(ModelRow).where(ModelRow.deleted_at.is_(None))
        if names is not None:
            wanted = wanted.where(ModelRow.adapter.in_(names))
        models = defaultdict[str, list[Model]](list)
        for row in rows.execute(wanted):
            models[row.adapter].append(model_of(row))
        versions = defaultdict[str, list[Version]](list)
        for version in self._catalogue.read(rows, names, unreadable):
            versions[version.name].append(version)
        wanted_names = versions.keys() | models.keys() if names is None else set(names)
        return {name: _Adapter(versions[name], models[name]) for name in wanted_names - unreadable}


def _read_keys(rows: Connection, ids: Collection[str] | None) -> dict[str, StoredKey | None]:
    """The keys of these ids, None for one that is gone; all for None."""
    if ids is not None and not ids:
        return {}
    wanted = select(KeyRow) if ids is None else select(KeyRow).where(KeyRow.id.in_(ids))
    found: dict[str, StoredKey | None] = {row.id: stored(row) for row in rows.execute(wanted)}
    return dict.fromkeys(ids or ()) | found


_NEWEST = select(func.max(ChangeRow.number), migrations.REVISION)
_SINCE = select(ChangeRow.subject).where(ChangeRow.number > bindparam("number"))
