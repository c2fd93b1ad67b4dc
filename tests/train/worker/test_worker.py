"""The worker among others: who gets what, and what becomes of jobs when something goes wrong."""

import errno
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from child_processes import Endless, Pretender, Scripted
from worker_world import World, at_work, wait_until

from registry import RegistryUnavailable
from registry.finetuning.claim import Claim
from registry.finetuning.queue import Queue
from train.runs.folder import RunFolder
from train.worker.devices import Device
from train.worker.order import JobFolder, Outcome

DISK_FULL = Outcome("failed", "disk_full", "The server's disk is full.")
_dying = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
DAY, NIGHT = datetime(2026, 11, 24, 12), datetime(2026, 11, 24, 23)


def test_fifty_jobs_of_three_tenants_are_run_fairly_and_once_by_workers_started_twice(
    world: World, adapter: Path
) -> None:
    pretender = Pretender(world.registry, adapter, epochs=False)
    counts = {"acme": 30, "beta": 15, "gamma": 5}
    jobs = {
        job.id: owner for owner, count in counts.items() for job in world.many(count, tenant=owner)
    }
    for enough in (20, 50):
        with (
            at_work(world.worker(pretender, f"a{enough}", Device("0"))),
            at_work(world.worker(pretender, f"b{enough}", Device("1"))),
        ):
            wait_until(lambda enough=enough: len(pretender.trained()) >= enough)
    done = [world.registry.jobs.get(None, job) for job in jobs]
    assert Counter(job.status for job in done) == {"succeeded": 50}
    assert len({job.fine_tuned_model for job in done}) == 50
    trained = pretender.trained()
    assert sorted(trained) == sorted(jobs)
    turns = [jobs[job] for job in trained]
    last = {owner: 50 - turns[::-1].index(owner) for owner in counts}
    assert last["gamma"] <= 20  # of 15, with equal turns
    assert last["beta"] <= 40  # of 35
    assert world.registry.queue.workers() == []


def test_a_tenant_has_no_more_trainings_at_a_time_than_it_may(world: World) -> None:
    child = Endless()
    first, second = world.queued(), world.queued()
    with at_work(world.worker(child, "a", Device("0"), tenant_concurrency=1)):
        wait_until(lambda: world.now(first).status == "running")
        other = Scripted(lambda _: 1)
        world.work(other, name="b", device=Device("1"), tenant_concurrency=1)
        assert other.orders == []
        assert world.now(second).status == "queued"


@_dying
@pytest.mark.parametrize("work", ["validate", "train"])
def test_a_job_of_a_killed_worker_is_done_by_another_one(
    world: World, pretender: Pretender, work: str
) -> None:
    def die(_: object) -> Outcome:
        raise SystemExit

    job = world.job() if work == "validate" else world.queued()
    world.work(Scripted(die), lease_seconds=0.3)
    assert world.now(job).worker == "w"
    wait_until(lambda: (world.work(pretender, name="b"), world.now(job).finished)[1])
    assert world.now(job).status == "succeeded"
    assert pretender.trained() == [job.id]


def test_a_cancelled_job_ends_at_once_and_leaves_nothing_on_the_disk(world: World) -> None:
    child, job = Endless(), world.queued()
    run = RunFolder(world.registry.settings.runs / job.id)
    folder = JobFolder(world.registry.settings, job.id)
    with at_work(world.worker(child)):
        wait_until(folder.path.is_dir)
        run.checkpoints.mkdir(parents=True)
        world.registry.jobs.cancel("acme", job.id)
        wait_until(lambda: world.now(job).worker is None)
    assert child.signals == ["kill"]
    assert world.now(job).status == "cancelled"
    assert not run.path.exists()
    assert not folder.path.exists()


def test_a_job_cancelled_while_nobody_has_it_is_cleared_away_by_the_next_worker(
    world: World, pretender: Pretender
) -> None:
    job, other, left, late = (world.queued() for _ in range(4))
    for one in (job, other, left, late):
        (world.registry.settings.home / "jobs" / one.id).mkdir(parents=True)
        (world.registry.settings.runs / one.id / "checkpoints").mkdir(parents=True)
    world.registry.jobs.cancel("acme", job.id)
    for one, skip in ((left, (other, late)), (late, (other, left))):  # their worker dies
        ids = [waiting.id for waiting in skip]
        claim = world.registry.queue.claim_training("dead", lease_seconds=0.01, skip=ids)
        assert claim is not None
        assert claim.job.id == one.id
        world.registry.jobs.cancel("acme", one.id)
    time.sleep(0.05)
    world.work(pretender, train_window="00:00-00:01", clock=lambda: DAY)
    assert not (world.registry.settings.runs / job.id).exists()
    assert (world.registry.settings.runs / other.id).exists()
    for one in (left, late):
        assert not (world.registry.settings.runs / one.id).exists()
        assert world.now(one).worker is None


def test_a_job_that_cannot_be_begun_waits_and_the_worker_ends(world: World) -> None:
    def broken(*_: object) -> Outcome:
        raise PermissionError(errno.EACCES, "Permission denied")

    job = world.queued()
    world.work(Scripted(broken))
    assert world.now(job).status == "queued"
    assert world.messages(job)[-1] == "The server's registry could not be used"


@pytest.mark.parametrize(("heeds", "signals"), [(True, ["stop"]), (False, ["stop", "kill"])])
def test_a_paused_job_is_stopped_in_good_order_and_killed_where_that_takes_too_long(
    world: World, heeds: bool, signals: list[str]
) -> None:
    child, job = Endless(heeds_stop=heeds), world.queued()
    with at_work(world.worker(child, grace_seconds=0.2)):
        wait_until(lambda: world.now(job).started_at)
        world.registry.jobs.pause("acme", job.id)
        wait_until(lambda: world.now(job).worker is None)
    assert child.signals == signals
    assert world.now(job).status == "paused"
    assert JobFolder(world.registry.settings, job.id).path.exists()


def test_a_worker_that_comes_back_too_late_lets_the_job_go(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    child, job = Endless(), world.queued()
    with at_work(world.worker(child, lease_seconds=0.2)):
        monkeypatch.setattr(Claim, "renew", lambda *_, **__: None)  # it is suspended, say
        wait_until(lambda: world.now(job).started_at)
        theirs = wait_until(lambda: world.registry.queue.claim_training("b", lease_seconds=30))
        monkeypatch.undo()
        wait_until(lambda: child.signals)
        theirs.renew(30)
    assert child.signals == ["stop"]
    assert world.now(job).worker == "b"
    theirs.renew(30)


def test_the_child_works_on_while_the_database_is_away(
    world: World, pretender: Pretender, monkeypatch: pytest.MonkeyPatch
) -> None:
    child, job = Endless(), world.queued()

    def away(*_: object, **__: object) -> Any:
        raise RegistryUnavailable("away")

    with at_work(world.worker(child)):
        wait_until(lambda: world.now(job).started_at)
        original = Claim._held
        asked = []
        monkeypatch.setattr(Claim, "_held", lambda *_: asked.append(1) or away())
        wait_until(lambda: len(asked) > 2)
        monkeypatch.setattr(Claim, "_held", original)
        assert child.signals == []
        assert world.now(job).worker == "w"
        pretender(JobFolder(world.registry.settings, job.id).path, {})
        child.code = 0
        wait_until(lambda: world.now(job).finished)
    assert world.now(job).status == "succeeded"
    assert child.signals == []


def test_a_worker_waits_for_a_database_that_is_away_but_not_with_once(
    world: World, pretender: Pretender, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, tries, original = world.queued(), [], Queue.claim_training

    def away(self: Queue, *args: Any, **options: Any) -> Claim | None:
        tries.append(1)
        if len(tries) < 4:
            raise RegistryUnavailable("away")
        return original(self, *args, **options)

    monkeypatch.setattr(Queue, "claim_training", away)
    with pytest.raises(RegistryUnavailable):
        world.work(pretender)
    with at_work(world.worker(pretender)):
        wait_until(lambda: world.now(job).status == "succeeded")


def test_trainings_run_within_the_window_alone(world: World, pretender: Pretender) -> None:
    child, job, hour = Endless(), world.queued(), [DAY]
    window = {"train_window": "22:00-06:00", "clock": lambda: hour[0]}
    world.work(child, **window)
    assert world.now(job).status == "queued"
    with at_work(world.worker(child, **window)):
        hour[0] = NIGHT
        wait_until(lambda: world.now(job).started_at)
        hour[0] = DAY
        wait_until(lambda: world.now(job).status == "queued")
        assert child.signals == ["stop"]
    assert "The hours of training, 22:00-06:00, are over" in world.messages(job)[-1]
    hour[0] = NIGHT
    world.work(pretender, **window)
    assert world.now(job).status == "succeeded"


@pytest.mark.parametrize("said", [DISK_FULL, errno.ENOSPC])
def test_a_full_disk_is_waited_for_and_fails_the_job_in_the_end(
    world: World, said: Outcome | int
) -> None:
    job = world.queued()
    child = Scripted(lambda _: said)
    world.work(child)
    assert world.now(job).status == "queued"
    assert "disk is full; the job goes on when there is room" in world.messages(job)[-1]
    world.work(child, name="b")  # another process: the count is on the disk
    assert world.now(job).status == "queued"
    world.work(child, name="c")
    error = world.now(job).error
    assert error is not None
    assert (error["code"], world.now(job).status) == ("disk_full", "failed")
    assert len(child.orders) == 3


def test_a_job_that_found_the_disk_full_is_not_tried_again_at_once(
    world: World, pretender: Pretender
) -> None:
    job, later = world.queued(), world.queued()
    said: dict[str, list[str]] = {job.id: [], later.id: []}

    def script(order: Any) -> Outcome:
        said[order.job].append(order.work)
        return DISK_FULL if order.job == job.id else Outcome("failed", "x", "y")

    with at_work(world.worker(Scripted(script), retry_seconds=60)):
        wait_until(lambda: world.now(later).finished)
    assert said == {job.id: ["train"], later.id: ["train"]}


def test_a_child_that_the_system_kills_is_tried_once_more(world: World) -> None:
    job = world.queued()
    child = Scripted(lambda _: -9)
    world.work(child)
    error = world.now(job).error
    assert error is not None
    assert error["code"] == "out_of_memory"
    assert len(child.orders) == 2
    assert any("tried once more" in text for text in world.messages(job))


def test_a_run_that_another_process_still_holds_is_left_to_it(
    world: World, pretender: Pretender
) -> None:
    job = world.queued()
    world.work(Scripted(lambda _: Outcome("failed", "busy", "run x is under way")))
    assert world.now(job).status == "queued"
    world.work(pretender)
    assert world.now(job).status == "succeeded"


def test_a_worker_that_is_stopped_gives_its_job_back(world: World) -> None:
    child, job = Endless(), world.queued()
    with at_work(world.worker(child)):
        wait_until(lambda: world.now(job).started_at)
        [seen] = wait_until(world.registry.queue.workers)
        assert seen.name == "w"
    assert child.signals == ["stop"]
    assert (world.now(job).status, world.now(job).worker) == ("queued", None)
    assert world.messages(job)[-1].startswith("The worker was stopped")
    assert world.registry.queue.workers() == []


def test_a_second_ctrl_c_does_not_wait_for_the_step(world: World) -> None:
    child, job = Endless(heeds_stop=False), world.queued()
    worker = world.worker(child, grace_seconds=600)
    with at_work(worker):
        wait_until(lambda: world.now(job).started_at)
        worker.stop()
        wait_until(lambda: child.signals == ["stop"])
        worker.kill()
    assert child.signals == ["stop", "kill"]
    assert world.now(job).status == "queued"


def test_an_error_of_our_own_fails_the_job_and_not_the_worker(
    world: World, pretender: Pretender, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = world.queued()

    def broken(*_: object) -> Outcome:
        raise RuntimeError("/srv/secret is broken")

    with at_work(world.worker(Scripted(broken))):
        wait_until(lambda: world.now(job).finished)
        error = world.now(job).error
        assert error is not None
        assert error["code"] == "internal_error"
        assert "secret" not in error["message"]
        other = world.job()
        wait_until(lambda: world.now(other).finished)
