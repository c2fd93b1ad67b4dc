"""Where aliases point, and how they move: whole, by a canary's share, and back."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from sqlalchemy import Select, and_, select
from sqlalchemy.orm import Session

from registry.database import Database
from registry.errors import AliasMoved, AliasRefused, UnknownAdapter
from registry.tables import (
    AliasRow,
    CanaryRow,
    ForcedPromotionRow,
    PromotionRow,
    QuarantineRow,
    VersionRow,
)


@dataclass(frozen=True, slots=True)
class Alias:
    """An alias of an adapter: it means `number`, and for `percent` of the requests `canary`."""

    alias: str
    number: int
    canary: int | None = None
    percent: int = 0


@dataclass(frozen=True, slots=True)
class Forced:
    """A promotion that the gate would have refused: what it said, and who overruled it said why."""

    alias: str
    refusal: str
    reason: str
    at: datetime

    def as_dict(self) -> dict[str, str]:
        """All of it as JSON values."""
        return asdict(self) | {"at": self.at.isoformat()}


class Aliases:
    """Reads and moves aliases. For many threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, name: str) -> list[Alias]:
        """The aliases of an adapter, in order; empty where there are none."""
        with self._database.reading() as rows:
            found = rows.execute(
                select(AliasRow.alias, AliasRow.number, CanaryRow.number, CanaryRow.percent)
                .outerjoin(CanaryRow, CANARY_OF_ALIAS)
                .where(AliasRow.name == name)
            )
            aliases = [
                Alias(alias, number, canary, percent or 0)
                for alias, number, canary, percent in found
            ]
        return sorted(aliases, key=lambda alias: alias.alias)  # not by a collation

    def promote(
        self,
        name: str,
        number: int,
        alias: str,
        forced: tuple[str, str] | None = None,
        expected: int | None = None,
    ) -> None:
        """Point `alias` at a version and end its canary. Raises UnknownAdapter.

        `forced` has what the gate said and the reason to overrule it, where it did. AliasMoved
        where `alias` does not point at the version `expected`, 0 for none, or has a canary of
        another version than `number`.
        """
        with self._database.writing() as session:
            _require_live(session, name, number)
            row = session.get(AliasRow, (name, alias))
            _check_unmoved(session, name, alias, number, expected)
            _keep(session, name, number, alias, forced)
            _end_canary(session, name, alias)
            if row is not None and row.number == number:
                return
            session.add(
                PromotionRow(
                    name=name, alias=alias, number=number, replaced=row.number if row else None
                )
            )
            if row is None:
                session.add(AliasRow(name=name, alias=alias, number=number))
            else:
                row.number = number

    def start_canary(
        self,
        name: str,
        number: int,
        alias: str,
        percent: int,
        forced: tuple[str, str] | None = None,
        expected: int | None = None,
    ) -> None:
        """Give a version `percent` of an alias's requests, instead of the canary it may have.

        Raises UnknownAdapter; AliasRefused where the alias is not set, or points at that version;
        AliasMoved as `promote` does.
        """
        with self._database.writing() as session:
            _require_live(session, name, number)
            row = session.get(AliasRow, (name, alias))
            _check_unmoved(session, name, alias, number, expected)
            if row is None:
                raise AliasRefused(
                    f"{name} has no alias {alias!r} whose requests could be shared",
                    remedy=f"set it first: lorikeet adapters promote {name} VERSION"
                    f" --alias {alias}",
                )
            if row.number == number:
                raise AliasRefused(
                    f"{name}@{alias} points at version {number} already: it gets every request",
                    remedy="name another version for the canary",
                )
            _keep(session, name, number, alias, forced)
            session.merge(CanaryRow(name=name, alias=alias, number=number, percent=percent))

    def forced(self, name: str, number: int) -> list[Forced]:
        """The forced promotions of a version, the oldest first."""
        with self._database.reading() as rows:
            found = rows.execute(
                select(
                    ForcedPromotionRow.alias,
                    ForcedPromotionRow.refusal,
                    ForcedPromotionRow.reason,
                    ForcedPromotionRow.at,
                )
                .where(ForcedPromotionRow.name == name, ForcedPromotionRow.number == number)
                .order_by(ForcedPromotionRow.id)
            )
            return [Forced(*row) for row in found]

    def rollback(self, name: str, alias: str) -> int:
        """End the canary of `alias`, or point it at what it pointed to before; that number.

        Repeated, it goes further back; versions removed or quarantined since are passed over.
        Raises AliasRefused where there is nothing before.
        """
        with self._database.writing() as session:
            row = session.get(AliasRow, (name, alias))
            if row is None:
                raise AliasRefused(
                    f"{name} has no alias {alias!r}",
                    remedy=f"set it: lorikeet adapters promote {name} VERSION --alias {alias}",
                )
            if _end_canary(session, name, alias):
                return row.number
            promotions = session.scalars(
                select(PromotionRow)
                .where(
                    PromotionRow.name == name,
                    PromotionRow.alias == alias,
                    PromotionRow.undone_at.is_(None),
                )
                .order_by(PromotionRow.id.desc())
            )
            for promotion in promotions:
                promotion.undone_at = datetime.now(UTC)
                before = promotion.replaced
                if before not in (None, row.number) and _is_fit(session, name, before):
                    row.number = before
                    return before
            raise AliasRefused(
                f"{name}@{alias} points at version {row.number}, and there is none before it",
                remedy=f"choose a version: lorikeet adapters promote {name} VERSION "
                f"--alias {alias}",
            )


CANARY_OF_ALIAS = and_(CanaryRow.name == AliasRow.name, CanaryRow.alias == AliasRow.alias)


def _check_unmoved(
    session: Session, name: str, alias: str, number: int, expected: int | None
) -> None:
    """Whether whoever moves `alias` to `number` has seen it last; yes where nothing is expected."""
    if expected is None:
        return
    row, canary = session.get(AliasRow, (name, alias)), session.get(CanaryRow, (name, alias))
    at = 0 if row is None else row.number
    if at != expected:
        where = f"points at version {at}" if at else "is not set"
        wanted = f"to point at version {expected}" if expected else "not to be set"
    elif canary is not None and canary.number != number:
        where = f"has version {canary.number} as its canary"
        wanted = f"to have none but version {number}"
    else:
        return
    raise AliasMoved(
        f"{name}@{alias} {where}, and was expected {wanted}: it stays where it is",
        remedy=f"look at what is there now (lorikeet adapters show {name}), then decide again",
    )


def _keep(
    session: Session, name: str, number: int, alias: str, forced: tuple[str, str] | None
) -> None:
    if forced is not None:
        refusal, reason = forced
        session.add(
            ForcedPromotionRow(
                name=name, number=number, alias=alias, refusal=refusal, reason=reason
            )
        )


def _end_canary(session: Session, name: str, alias: str) -> bool:
    """Whether there was one."""
    canary = session.get(CanaryRow, (name, alias))
    if canary is not None:
        session.delete(canary)
    return canary is not None


def _require_live(session: Session, name: str, number: int) -> None:
    if session.scalar(_live(name, number)) is None:
        raise UnknownAdapter(f"{name}@{number} was removed just now")


def _is_fit(session: Session, name: str, number: int) -> bool:
    """Whether the version may be served: neither removed nor quarantined."""
    live = session.scalar(_live(name, number)) is not None
    return live and session.get(QuarantineRow, (name, number)) is None


def _live(name: str, number: int) -> Select[int]:
    return select(VersionRow.id).where(
        VersionRow.name == name, VersionRow.number == number, VersionRow.removed_at.is_(None)
    )
