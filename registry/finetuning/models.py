"""Fine-tuned models: the version that a name like `ft:base:acme:support:x7k2m9q1` stands for."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sqlalchemy import select

from registry.database import Database
from registry.errors import UnknownAdapter
from registry.finetuning.objects import Model, utc
from registry.finetuning.tables import ModelRow

Remove = Callable[[str, int], None]
"""Removes a version from the registry, by name and number; raises UnknownAdapter, AliasRefused."""


class Models:
    """Finds, lists and deletes them. For many threads and processes."""

    def __init__(self, database: Database, remove: Remove) -> None:
        self._database = database
        self._remove = remove

    def find(self, name: str) -> Model | None:
        """The model of that name, whosesoever it is; None where there is none any more."""
        with self._database.session() as session:
            row = session.get(ModelRow, name)
            return None if row is None or row.deleted_at is not None else model_of(row)

    def list(self, tenant: str | None) -> list[Model]:
        """The models of a tenant, checkpoints among them, by the time that they were made."""
        wanted = select(ModelRow).where(ModelRow.deleted_at.is_(None))
        if tenant is not None:
            wanted = wanted.where(ModelRow.tenant == tenant)
        with self._database.session() as session:
            rows = session.scalars(wanted.order_by(ModelRow.created_at, ModelRow.name))
            return [model_of(row) for row in rows]

    def delete(self, tenant: str | None, name: str) -> Model:
        """Delete a model, and its version unless another model has the same; the name is used up.

        Raises UnknownAdapter, and AliasRefused while an alias points at the version.
        """
        model = self.find(name)
        if model is None or tenant not in (None, model.tenant):
            raise UnknownAdapter(f"There is no fine-tuned model {name[:320]!r}.")
        if not self._shared(model):
            with suppress(UnknownAdapter):  # it was removed by a call that was killed
                self._remove(model.adapter, model.number)
        with self._database.writing() as session:
            row = session.get(ModelRow, name)
            if row is not None and row.deleted_at is None:
                row.deleted_at = self._database.now(session)
        return model

    def _shared(self, model: Model) -> bool:
        """Equal data and settings make equal weights, which are published once."""
        with self._database.session() as session:
            other = session.scalar(
                select(ModelRow.name)
                .where(
                    ModelRow.adapter == model.adapter,
                    ModelRow.number == model.number,
                    ModelRow.name != model.name,
                    ModelRow.deleted_at.is_(None),
                )
                .limit(1)
            )
        return other is not None


def model_of(row: Any) -> Model:
    """The model in a ModelRow or in a row of its columns."""
    return Model(
        id=row.id,
        name=row.name,
        tenant=row.tenant,
        adapter=row.adapter,
        number=row.number,
        job_id=row.job_id,
        created_at=utc(row.created_at),
        step=row.step,
        metrics=row.metrics,
    )
