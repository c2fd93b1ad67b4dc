"""Claims: once, fairly, for as long as the worker lives; what a lost claim does counts nothing."""

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fine_tuning import MakeJob

from registry import Base, Registry
from registry.errors import LeaseLost
from registry.finetuning.claim import Claim
from registry.finetuning.objects import Job

pytestmark = pytest.mark.usefixtures("database_url")

LEASE = 30.0
SHORT = 0.05
NUMBERS = {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 1.0}


def validate_all(registry: Registry) -> None:
    while claim := registry.queue.claim_validation("validator", lease_seconds=LEASE):
        claim.validated(NUMBERS)


def claim_training(registry: Registry, lease: float = LEASE, most: int | None = None) -> Claim:
    claim = registry.queue.claim_training("w", lease_seconds=lease, most_per_tenant=most)
    assert claim is not None
    claim.begins()
    return claim


@pytest.fixture
def queued(registry: Registry, make_job: MakeJob) -> Job:
    job = make_job(suffix="s")
    validate_all(registry)
    return registry.jobs.get(None, job.id)


def messages(registry: Registry, job: Job) -> list[str]:
    return [event.message for _, event in registry.jobs.events_since(job.id, 0)]


def test_the_way_of_a_job(
    registry: Registry, make_job: MakeJob, base: Base, adapters: list[Path]
) -> None:
    job = make_job(suffix="s")
    validating = registry.queue.claim_validation("w", lease_seconds=LEASE)
    assert validating is not None
    assert validating.job.id == job.id
    assert registry.queue.claim_validation("v", lease_seconds=LEASE) is None
    assert validating.validated(NUMBERS).status == "queued"
    claim = claim_training(registry)
    assert (claim.job.status, claim.job.hyperparameters) == ("running", NUMBERS)
    assert registry.jobs.get("acme", job.id).started_at is not None
    finish = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=3)
    claim.renew(LEASE, estimated_finish=finish, trained_tokens=50)
    running = registry.jobs.get("acme", job.id)
    assert (running.estimated_finish, running.trained_tokens) == (finish, 50)
    claim.metrics(1, "Step 1/2: training loss=2.00", {"step": 1, "train_loss": 2.0})
    version = registry.publish(adapters[0], job.adapter, base=base)
    done = claim.succeed(version, trained_tokens=99, result_files=["file-1"])
    assert (done.status, done.trained_tokens, done.result_files) == ("succeeded", 99, ["file-1"])
    assert done.estimated_finish is None
    assert done.fine_tuned_model == f"ft:{base.id}:acme:s:{job.id[6:14]}"
    assert registry.get(done.fine_tuned_model) == version
    assert messages(registry, job)[-2:] == [
        f"New fine-tuned model created: {done.fine_tuned_model}",
        "The job has successfully completed",
    ]
    assert registry.queue.claim_training("w", lease_seconds=LEASE) is None


def test_a_job_is_claimed_once_however_many_ask(registry: Registry, make_job: MakeJob) -> None:
    jobs = {make_job().id for _ in range(6)}
    validate_all(registry)
    start = threading.Barrier(8)

    def ask(number: int) -> str | None:
        start.wait()
        claim = registry.queue.claim_training(f"w{number}", lease_seconds=LEASE)
        return claim.job.id if claim else None

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(ask, range(8)))
    assert Counter(got) == Counter(dict.fromkeys(jobs, 1) | {None: 2})


def test_a_dead_workers_job_is_taken_over_once(registry: Registry, queued: Job) -> None:
    dead = claim_training(registry, SHORT)
    assert registry.queue.claim_training("other", lease_seconds=LEASE) is None
    time.sleep(2 * SHORT)
    claim = claim_training(registry)
    assert claim.job.id == queued.id
    assert registry.queue.claim_training("third", lease_seconds=LEASE) is None
    for call in (
        lambda: dead.renew(LEASE),
        lambda: dead.note("late"),
        lambda: dead.metrics(1, "late", {}),
        lambda: dead.fail("late", "late"),
        lambda: dead.give_back("late"),
    ):
        with pytest.raises(LeaseLost):
            call()
    dead.release()
    claim.renew(LEASE)
    assert "late" not in messages(registry, queued)
    assert registry.jobs.get(None, queued.id).status == "running"


def test_a_late_worker_whose_job_nobody_took_goes_on(registry: Registry, queued: Job) -> None:
    claim = claim_training(registry, SHORT)
    time.sleep(2 * SHORT)
    claim.renew(LEASE)
    assert registry.queue.claim_training("other", lease_seconds=LEASE) is None


@pytest.mark.parametrize("what", ["pause", "cancel"])
def test_a_stopped_job_is_lost_and_free_when_let_go(
    registry: Registry, queued: Job, what: str
) -> None:
    claim = claim_training(registry)
    getattr(registry.jobs, what)("acme", queued.id)
    with pytest.raises(LeaseLost):
        claim.renew(LEASE)
    if what == "cancel":
        assert registry.queue.claim_training("w", lease_seconds=LEASE) is None
        return
    registry.jobs.resume("acme", queued.id)
    assert registry.queue.claim_training("w", lease_seconds=LEASE) is None  # it still stops
    claim.release()
    assert claim_training(registry).job.id == queued.id


def test_a_job_paused_and_resumed_between_two_beats_is_lost(
    registry: Registry, queued: Job
) -> None:
    claim = claim_training(registry)
    registry.jobs.pause("acme", queued.id)
    registry.jobs.resume("acme", queued.id)
    with pytest.raises(LeaseLost):
        claim.renew(LEASE)


def test_given_back_it_waits_again(registry: Registry, queued: Job) -> None:
    first = claim_training(registry)
    started = registry.jobs.get(None, queued.id).started_at
    assert first.give_back("The worker stops").status == "queued"
    claim_training(registry)
    assert registry.jobs.get(None, queued.id).started_at == started
    assert messages(registry, queued)[-1] == "Fine-tuning job goes on"


def test_a_failed_job_says_why(registry: Registry, make_job: MakeJob) -> None:
    job = make_job()
    claim = registry.queue.claim_validation("w", lease_seconds=LEASE)
    assert claim is not None
    claim.fail("invalid_training_file", "line 3: no assistant turn", "training_file")
    failed = registry.jobs.get("acme", job.id)
    assert failed.status == "failed"
    assert failed.finished_at is not None
    assert failed.error == {
        "code": "invalid_training_file",
        "message": "line 3: no assistant turn",
        "param": "training_file",
    }
    assert registry.jobs.events("acme", job.id).data[0].level == "error"


def test_what_was_told_is_not_told_again(
    registry: Registry, queued: Job, base: Base, adapters: list[Path]
) -> None:
    claim = claim_training(registry)
    version = registry.publish(adapters[0], "ft.acme.s.steps", base=base)
    for _ in range(2):
        claim.metrics(1, "step 1", {"step": 1})
        claim.note("evaluated", key="evaluation")
        first = claim.checkpoint(1, version, {"step": 1})
    assert first == claim.checkpoint(1, version, {"step": 1})
    told = Counter(messages(registry, queued))
    assert told["step 1"] == told["evaluated"] == 1
    assert len(registry.jobs.checkpoints("acme", queued.id).data) == 1


def test_tenants_take_turns_however_much_each_has_queued(
    registry: Registry, make_job: MakeJob
) -> None:
    for tenant, count in (("acme", 6), ("globex", 2), ("initech", 2)):
        for _ in range(count):
            make_job(tenant)
    validate_all(registry)
    order = []
    for _ in range(10):
        claim = claim_training(registry)
        order.append(claim.job.tenant)
        claim.fail("done", "done")
    assert [Counter(order[at : at + 3]) for at in (0, 3)] == [
        Counter({"acme": 1, "globex": 1, "initech": 1})
    ] * 2
    assert order[6:] == ["acme"] * 4


def test_tenants_take_turns_with_the_checks_of_their_files(
    registry: Registry, make_job: MakeJob
) -> None:
    for tenant, count in (("acme", 5), ("globex", 2), ("initech", 1)):
        for _ in range(count):
            make_job(tenant)

    def claim() -> Claim:
        found = registry.queue.claim_validation("w", lease_seconds=LEASE)
        assert found is not None
        return found

    held = claim()
    order = [held.job.tenant]
    for at in range(6):  # whoever is being checked comes after the others; both ends of a check
        one = claim()
        order.append(one.job.tenant)
        if at % 2:
            one.fail("bad", "bad")
        else:
            one.validated(NUMBERS)
    assert order == ["acme", "globex", "initech", "globex", "acme", "acme", "acme"]
    held.validated(NUMBERS)
    last = claim()
    assert last.job.tenant == "acme"
    skipped = registry.queue.claim_validation("w", lease_seconds=LEASE, skip={last.job.id})
    assert skipped is None


def test_a_claim_that_does_not_begin_is_no_turn_and_not_told(
    registry: Registry, make_job: MakeJob
) -> None:
    waiting, other = make_job("acme"), make_job("globex")
    validate_all(registry)
    told = messages(registry, waiting)
    for _ in range(3):
        claim = registry.queue.claim_training("w", lease_seconds=LEASE)
        assert claim is not None
        assert claim.job.id == waiting.id
        claim.give_back("It waits for memory", key="memory")
    assert messages(registry, waiting) == [*told, "It waits for memory"]
    assert registry.jobs.get(None, waiting.id).started_at is None
    claim_training(registry).fail("x", "x")
    assert claim_training(registry).job.id == other.id


def test_who_has_the_fewest_at_work_comes_first(registry: Registry, make_job: MakeJob) -> None:
    for tenant in ("acme", "acme", "acme", "globex"):
        make_job(tenant)
    validate_all(registry)
    assert {claim_training(registry).job.tenant for _ in range(2)} == {"acme", "globex"}


def test_a_tenant_trains_so_many_at_once(registry: Registry, make_job: MakeJob) -> None:
    for _ in range(2):
        make_job()
    validate_all(registry)
    claim = claim_training(registry, most=1)
    assert registry.queue.claim_training("w", lease_seconds=LEASE, most_per_tenant=1) is None
    claim.fail("x", "x")
    claim_training(registry, most=1)


def test_priority_orders_a_tenants_own(registry: Registry, make_job: MakeJob) -> None:
    low = make_job(lorikeet={"priority": -1})
    first = make_job()
    second = make_job()
    high = make_job(lorikeet={"priority": 5})
    other = make_job("globex", lorikeet={"priority": -100})
    validate_all(registry)
    registry.jobs.prioritize("acme", second.id, 3)
    order = []
    for _ in range(5):
        claim = claim_training(registry)
        order.append(claim.job.id)
        claim.fail("x", "x")
    mine = [job for job in order if job != other.id]
    assert mine == [high.id, second.id, first.id, low.id]
    assert order.index(other.id) <= 1


def test_jobs_that_are_not_wanted_now_are_passed_over(
    registry: Registry, make_job: MakeJob
) -> None:
    large, small = make_job(), make_job()
    validate_all(registry)
    claim = registry.queue.claim_training("w", lease_seconds=LEASE, skip={large.id})
    assert claim is not None
    assert claim.job.id == small.id
    assert (
        registry.queue.claim_training("w", lease_seconds=LEASE, skip={large.id, small.id}) is None
    )


def test_workers_are_seen_until_they_go(registry: Registry) -> None:
    registry.queue.seen("w1", ["cpu"], "idle")
    registry.queue.seen("w1", ["cpu"], "trains ftjob-1")
    registry.queue.seen("w2", ["0", "1"], "idle")
    assert [(w.name, w.devices, w.doing) for w in registry.queue.workers()] == [
        ("w1", ["cpu"], "trains ftjob-1"),
        ("w2", ["0", "1"], "idle"),
    ]
    registry.queue.gone("w1")
    registry.queue.gone("never there")
    assert [worker.name for worker in registry.queue.workers()] == ["w2"]
