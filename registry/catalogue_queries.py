"""The catalogue's queries: of one adapter or of all, of what is live, with what is said of it."""

from typing import Any

from sqlalchemy import (
    CompoundSelect,
    Select,
    and_,
    bindparam,
    func,
    literal,
    null,
    select,
    union_all,
)

from registry.aliases import CANARY_OF_ALIAS
from registry.reference import LATEST
from registry.tables import AdapterRow, AliasRow, CanaryRow, QuarantineRow, RecordingRow, VersionRow

_IS_LIVE = VersionRow.removed_at.is_(None)
_QUARANTINE_OF_VERSION = and_(
    QuarantineRow.name == VersionRow.name, QuarantineRow.number == VersionRow.number
)
_QUARANTINE_OF_CANARY = and_(
    QuarantineRow.name == CanaryRow.name, QuarantineRow.number == CanaryRow.number
)
# One statement for all that a reference can mean, one for the version.
ALIASES: CompoundSelect[Any] = union_all(
    select(
        AliasRow.alias, AliasRow.number, CanaryRow.number, CanaryRow.percent, QuarantineRow.reason
    )
    .outerjoin(CanaryRow, CANARY_OF_ALIAS)
    .outerjoin(QuarantineRow, _QUARANTINE_OF_CANARY)
    .where(AliasRow.name == bindparam("name")),
    select(literal(LATEST), func.max(VersionRow.number), null(), null(), null()).where(
        VersionRow.name == bindparam("name"), _IS_LIVE
    ),
)
_RECORDING_OF_VERSION = and_(
    RecordingRow.name == VersionRow.name, RecordingRow.number == VersionRow.number
)
LIVE = (
    select(VersionRow.id, VersionRow.folder, QuarantineRow.reason, RecordingRow.revision)
    .outerjoin(QuarantineRow, _QUARANTINE_OF_VERSION)
    .outerjoin(RecordingRow, _RECORDING_OF_VERSION)
    .where(VersionRow.name == bindparam("name"), VersionRow.number == bindparam("number"), _IS_LIVE)
)
UNFILED = (
    select(VersionRow.id, VersionRow.folder, RecordingRow.revision)
    .join(RecordingRow, _RECORDING_OF_VERSION)
    .where(RecordingRow.filed < RecordingRow.revision, _IS_LIVE)
)
NEWEST = (
    select(VersionRow.number)
    .where(VersionRow.name == bindparam("name"), _IS_LIVE)
    .order_by(VersionRow.number.desc())
    .limit(5)
)
EVERY_LIVE = (
    select(VersionRow.id, VersionRow.folder, QuarantineRow.reason, RecordingRow.revision)
    .outerjoin(QuarantineRow, _QUARANTINE_OF_VERSION)
    .outerjoin(RecordingRow, _RECORDING_OF_VERSION)
    .where(_IS_LIVE)
)
EVERY_ALIAS = select(
    AliasRow.name, AliasRow.alias, AliasRow.number, CanaryRow.number, CanaryRow.percent
).outerjoin(CanaryRow, CANARY_OF_ALIAS)
CONTENT = (
    select(
        VersionRow.id,
        VersionRow.name,
        VersionRow.number,
        VersionRow.manifest,
        AdapterRow.tenant,
    )
    .join(AdapterRow, AdapterRow.name == VersionRow.name)
    .where(VersionRow.id.in_(bindparam("ids", expanding=True)))
)


def same_content(name: str, digest: str, base_digest: str) -> Select[int]:
    """The number of the newest version with this content, for this base."""
    return (
        select(VersionRow.number)
        .where(
            VersionRow.name == name,
            VersionRow.digest == digest,
            VersionRow.base_digest == base_digest,
            VersionRow.removed_at.is_(None),
        )
        .order_by(VersionRow.number.desc())
        .limit(1)
    )
