"""Files and jobs of two tenants."""

from typing import Any

import pytest
from fine_tuning import ROW, MakeJob, SendFile

from registry import Base, Registry
from registry.finetuning.objects import FINE_TUNE, File, Job
from registry.finetuning.request import JobRequest


@pytest.fixture
def send_file(registry: Registry) -> SendFile:
    """As `fine_tuning.SendFile` says."""

    def send(
        tenant: str = "acme",
        content: bytes = ROW,
        purpose: str = FINE_TUNE,
        filename: str = "rows.jsonl",
        **options: Any,
    ) -> File:
        with registry.files.receiving() as incoming:
            incoming.write(content)
            return registry.files.add(
                incoming, tenant=tenant, purpose=purpose, filename=filename, **options
            )

    return send


@pytest.fixture
def make_job(registry: Registry, send_file: SendFile, base: Base) -> MakeJob:
    """As `fine_tuning.MakeJob` says."""

    def make(tenant: str = "acme", **fields: Any) -> Job:
        how = {key: fields.pop(key) for key in ("retry", "most_unfinished") if key in fields}
        fields.setdefault("training_file", "")
        if not fields["training_file"]:
            fields["training_file"] = send_file(tenant).id
        request = JobRequest.model_validate({"model": base.id, **fields})
        return registry.jobs.create(request, tenant=tenant, base=base, place=str(base.path), **how)

    return make
