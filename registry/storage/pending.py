"""Objects that no row tells of yet, or no more: nothing is looked for in the store, all is noted.

A key is noted before its object is written, and in the transaction that takes its row away.
"""

import json
from collections.abc import Iterable
from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from registry.database import Database
from registry.finetuning.tables import FileRow
from registry.storage.objects import Objects
from registry.tables import PendingObjectRow, VersionRow


class Pending:
    """Deletes what is nobody's, and nothing else: other keys in the bucket are not ours."""

    def __init__(self, database: Database, objects: Objects) -> None:
        self._database = database
        self._objects = objects

    def expect(self, keys: Iterable[str]) -> None:
        """These objects are about to be written, and a row that tells of them after that."""
        with self._database.writing() as session:
            since = self._database.now(session)
            for key in keys:
                session.merge(PendingObjectRow(key=key, since=since, wanted=True))

    def settle(self, session: Session, keys: Iterable[str]) -> None:
        """A row tells of them from now on."""
        session.execute(delete(PendingObjectRow).where(PendingObjectRow.key.in_(list(keys))))

    def release(self, session: Session, keys: Iterable[str]) -> None:
        """A row that told of them goes."""
        since = self._database.now(session)
        for key in keys:
            if session.get(PendingObjectRow, key) is None:
                session.add(PendingObjectRow(key=key, since=since, wanted=False))

    def drop(self, keys: Iterable[str]) -> None:
        """Delete those of the objects that are nobody's, and that nobody is about to write."""
        for key in keys:
            self._delete(key, even_wanted=False)

    def sweep(self, older_than: float) -> int:
        """Delete those that have been nobody's for `older_than` seconds; how many there were."""
        with self._database.session() as session:
            until = self._database.now(session) - timedelta(seconds=older_than)
            keys = session.scalars(
                select(PendingObjectRow.key).where(PendingObjectRow.since < until)
            ).all()
        return sum(self._delete(key, even_wanted=True) for key in keys)

    def _delete(self, key: str, *, even_wanted: bool) -> bool:
        """In a writing transaction: no row can come for it meanwhile.

        The store is asked before: one that hangs keeps no writer waiting, and the key stays noted.
        """
        self._objects.ask()
        with self._database.writing() as session:
            noted = session.get(PendingObjectRow, key)
            if noted is None or (noted.wanted and not even_wanted):
                return False
            session.delete(noted)
            if _is_used(session, key):
                return False
            self._objects.delete(key)
            return True


def _is_used(session: Session, key: str) -> bool:
    """Whether a row tells of a blob, `sha256/<2>/<hex>`, or of a version's manifest."""
    kind, _, rest = key.partition("/")
    live = select(VersionRow.id).where(VersionRow.removed_at.is_(None)).limit(1)
    if kind != "sha256":
        place = rest.rpartition("/")[0]
        return session.scalar(live.where(VersionRow.folder == place)) is not None
    digest = rest.rpartition("/")[2]
    manifests = select(VersionRow.manifest).where(
        VersionRow.removed_at.is_(None), VersionRow.manifest.contains(digest)
    )
    files = select(FileRow.id).where(FileRow.sha256 == digest, FileRow.deleted_at.is_(None))
    return session.scalar(files.limit(1)) is not None or any(
        file["sha256"] == digest  # a manifest also names the data that it was trained on
        for text in session.scalars(manifests)
        for file in json.loads(text)["files"].values()
    )
