"""Lists that page: `after` the last id of the page before, and whether more follows."""

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Select, and_, or_
from sqlalchemy.orm import InstrumentedAttribute, Session

from registry.finetuning.objects import Page

Row = TypeVar("Row")
T = TypeVar("T")


def page(
    session: Session,
    wanted: Select[Row],
    by: tuple[InstrumentedAttribute[Any], ...],
    *,
    after: Row | None,
    limit: int,
    make: Callable[[Row], T],
    descending: bool = True,
) -> Page[T]:
    """At most `limit` of the rows `wanted`, in the order of the columns `by`, that follow `after`.

    `by` has to tell all rows apart. Nothing is lost or told twice when rows are added meanwhile.
    """
    if after is not None:
        wanted = wanted.where(_beyond(by, [getattr(after, key.key) for key in by], descending))
    order = [key.desc() if descending else key.asc() for key in by]
    rows = session.scalars(wanted.order_by(*order).limit(limit + 1)).all()
    return Page([make(row) for row in rows[:limit]], has_more=len(rows) > limit)


def _beyond(by: tuple[InstrumentedAttribute[Any], ...], values: list[Any], descending: bool) -> Any:
    """Lexicographic order, written out: not every database compares tuples."""
    alternatives = []
    for index, (column, value) in enumerate(zip(by, values, strict=True)):
        equal = [by[before] == values[before] for before in range(index)]
        alternatives.append(and_(*equal, column < value if descending else column > value))
    return or_(*alternatives)
