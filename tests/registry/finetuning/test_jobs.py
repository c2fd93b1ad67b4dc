"""Jobs as their tenant sees them: made once, listed in pages, stopped, taken up again."""

import pytest
from fine_tuning import ROW, MakeJob, SendFile
from openai.types import fine_tuning
from openai.types.fine_tuning import jobs as openai_jobs

from registry import Base, Registry, UsageError
from registry.errors import JobConflict, QuotaReached, UnknownFile, UnknownJob
from registry.finetuning.objects import RESULTS

pytestmark = pytest.mark.usefixtures("database_url")


def test_a_new_job_is_openais(registry: Registry, make_job: MakeJob, base: Base) -> None:
    job = make_job(
        suffix="support",
        seed=7,
        metadata={"team": "helpdesk"},
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto"}},
        },
        lorikeet={"rank": 8, "targets": ["q_proj"]},
    )
    assert registry.jobs.get("acme", job.id) == job
    read = fine_tuning.FineTuningJob.model_validate(job.as_dict())
    assert read.status == "validating_files"
    assert (read.model, read.organization_id, read.seed) == (base.id, "acme", 7)
    assert read.hyperparameters.n_epochs == 2
    assert read.hyperparameters.batch_size == "auto"
    assert read.method is not None
    assert read.method.supervised is not None
    assert read.metadata == {"team": "helpdesk"}
    assert (read.fine_tuned_model, read.error, read.finished_at) == (None, None, None)
    assert job.as_dict()["lorikeet"]["rank"] == 8
    assert job.adapter == "ft.acme.support"
    messages = [event.message for event in registry.jobs.events("acme", job.id).data]
    assert messages == [
        f"Validating training file: {job.training_file}",
        f"Created fine-tuning job: {job.id}",
    ]


def test_a_job_without_a_seed_gets_one_that_stays(registry: Registry, make_job: MakeJob) -> None:
    seeds = {make_job().seed for _ in range(4)}
    assert len(seeds) > 1


def test_jobs_of_another_tenant_are_unknown(registry: Registry, make_job: MakeJob) -> None:
    job = make_job("acme")
    jobs = registry.jobs
    for call in (jobs.get, jobs.cancel, jobs.pause, jobs.resume, jobs.events, jobs.checkpoints):
        with pytest.raises(UnknownJob):
            call("globex", job.id)
    assert jobs.list("globex").data == []
    assert jobs.get(None, job.id) == job


def test_files_have_to_be_the_tenants_and_for_training(
    registry: Registry, send_file: SendFile, make_job: MakeJob
) -> None:
    with pytest.raises(UnknownFile, match="training_file"):
        make_job("globex", training_file=send_file("acme").id)
    with pytest.raises(UnknownFile, match="validation_file"):
        make_job(validation_file="file-none")
    with pytest.raises(UsageError, match="purpose"):
        make_job(training_file=send_file(purpose=RESULTS).id)
    deleted = send_file(content=ROW * 3)
    registry.files.delete("acme", deleted.id)
    with pytest.raises(UnknownFile):
        make_job(training_file=deleted.id)
    assert registry.jobs.list(None).data == []


def test_a_request_sent_again_is_the_same_job(
    registry: Registry, send_file: SendFile, make_job: MakeJob
) -> None:
    file = send_file().id
    first = make_job(training_file=file, suffix="a")
    assert make_job(training_file=file, suffix="a", retry=True).id == first.id
    assert make_job(training_file=file, suffix="b", retry=True).id != first.id
    assert make_job(training_file=file, suffix="a").id != first.id
    assert len(registry.jobs.list("acme").data) == 3


def test_a_tenant_has_so_many_unfinished_jobs(registry: Registry, make_job: MakeJob) -> None:
    job = make_job(most_unfinished=1)
    with pytest.raises(QuotaReached):
        make_job(most_unfinished=1)
    make_job("globex", most_unfinished=1)
    registry.jobs.cancel("acme", job.id)
    make_job(most_unfinished=1)


def test_lists_page_the_newest_first(registry: Registry, make_job: MakeJob) -> None:
    made = [make_job().id for _ in range(5)]
    seen: list[str] = []
    after = None
    while True:
        page = registry.jobs.list("acme", after=after, limit=2)
        seen += [job.id for job in page.data]
        if not page.has_more:
            break
        after = seen[-1]
    assert seen == made[::-1]
    with pytest.raises(UnknownJob):
        registry.jobs.list("acme", after="ftjob-none")


def test_lists_filter_by_metadata_and_status(registry: Registry, make_job: MakeJob) -> None:
    red = make_job(metadata={"colour": "red", "size": "1"})
    make_job(metadata={"colour": "blue", "size": "1"})
    none, odd = make_job(), make_job(metadata={'größe "1"\n': "ä"})
    found = registry.jobs.list("acme", metadata={"colour": "red", "size": "1"})
    assert [job.id for job in found.data] == [red.id]
    assert registry.jobs.list("acme", metadata={"it's": '"'}).data == []
    assert registry.jobs.list("acme", metadata={'größe "1"\n': "ä"}).data == [odd]
    assert registry.jobs.list("acme", metadata="null").data == [none]
    registry.jobs.cancel("acme", red.id)
    assert [job.id for job in registry.jobs.list("acme", status="cancelled").data] == [red.id]


def test_events_page_the_newest_first(registry: Registry, make_job: MakeJob) -> None:
    job = make_job()
    claim = registry.queue.claim_validation("w", lease_seconds=30)
    assert claim is not None
    for n in range(3):
        claim.note(f"note {n}")
    page = registry.jobs.events("acme", job.id, limit=2)
    assert [event.message for event in page.data] == ["note 2", "note 1"]
    assert page.has_more
    rest = registry.jobs.events("acme", job.id, after=page.data[-1].id)
    assert rest.data[0].message == "note 0"
    assert not rest.has_more
    for event in rest.data:
        fine_tuning.FineTuningJobEvent.model_validate(event.as_dict())
    with pytest.raises(UnknownJob):
        registry.jobs.events("acme", job.id, after="ftevent-none")
    followed = registry.jobs.events_since(job.id, 0)
    assert [event.message for _, event in followed][-1] == "note 2"
    assert registry.jobs.events_since(job.id, followed[-1][0]) == []


def test_pause_and_resume(registry: Registry, make_job: MakeJob) -> None:
    job = make_job()
    assert registry.jobs.pause("acme", job.id).status == "paused"
    with pytest.raises(JobConflict, match="paused"):
        registry.jobs.pause("acme", job.id)
    assert registry.queue.claim_validation("w", lease_seconds=30) is None
    assert registry.jobs.resume("acme", job.id).status == "validating_files"
    claim = registry.queue.claim_validation("w", lease_seconds=30)
    assert claim is not None
    claim.validated({"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 1.0})
    assert registry.jobs.pause("acme", job.id).status == "paused"
    assert registry.queue.claim_training("w", lease_seconds=30) is None
    assert registry.jobs.resume("acme", job.id).status == "queued"
    with pytest.raises(JobConflict):
        registry.jobs.resume("acme", job.id)


def test_a_finished_job_cannot_be_moved(registry: Registry, make_job: MakeJob) -> None:
    job = make_job()
    cancelled = registry.jobs.cancel("acme", job.id)
    assert cancelled.status == "cancelled"
    assert cancelled.finished_at is not None
    for call in (registry.jobs.cancel, registry.jobs.pause, registry.jobs.resume):
        with pytest.raises(JobConflict, match="cancelled"):
            call("acme", job.id)


def test_checkpoints_page(
    registry: Registry, make_job: MakeJob, base: Base, adapters: list
) -> None:  # type: ignore[type-arg]
    job = make_job(suffix="s")
    validating = registry.queue.claim_validation("w", lease_seconds=30)
    assert validating is not None
    validating.validated({})
    claim = registry.queue.claim_training("w", lease_seconds=30)
    assert claim is not None
    for step, folder in zip((10, 20, 30), adapters, strict=False):
        version = registry.publish(folder, "ft.acme.s.steps", base=base)
        claim.checkpoint(step, version, {"step": step, "train_loss": 1.0})
    page = registry.jobs.checkpoints("acme", job.id, limit=2)
    assert [model.step for model in page.data] == [30, 20]
    assert page.has_more
    rest = registry.jobs.checkpoints("acme", job.id, after=page.data[-1].id)
    assert [model.step for model in rest.data] == [10]
    read = openai_jobs.FineTuningJobCheckpoint.model_validate(page.data[0].as_checkpoint())
    assert read.fine_tuned_model_checkpoint.endswith(":ckpt-step-30")
    assert registry.get(read.fine_tuned_model_checkpoint).reference == "ft.acme.s.steps@3"
