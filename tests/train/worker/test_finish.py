"""From a run that is done to a model that can be asked: each step once."""

import errno
from pathlib import Path

import pytest
from child_processes import Pretender
from worker_world import World, wait_until

from registry.finetuning.claim import Claim
from registry.finetuning.objects import RESULTS
from train.runs.folder import RunFolder
from train.worker.finish import Finish
from train.worker.order import Order, Outcome

_dying = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


def test_what_a_tenant_gets_in_the_end(world: World, pretender: Pretender) -> None:
    job = world.job(suffix="Help")
    world.work(pretender)
    now = world.now(job)
    assert (now.status, now.trained_tokens, now.reference) == ("succeeded", 123, "ft.acme.help@1")
    assert now.fine_tuned_model is not None
    version = world.registry.get(now.fine_tuned_model)
    assert (version.tenant, version.manifest.origin) == ("acme", "fine-tune")
    training = version.manifest.training or {}
    assert (training["job"], training["run"]) == (job.id, job.id)
    source = world.registry.files.get(None, job.training_file)
    assert version.manifest.data_digest == f"sha256:{source.sha256}"
    [result] = now.result_files
    file = world.registry.files.get("acme", result)
    assert (file.purpose, file.filename) == (RESULTS, f"{job.id}-metrics.csv")
    assert world.registry.files.path(file).read_text().splitlines()[1:] == [
        "1,1.0,0.5,,",
        "2,0.5,0.5,,",
    ]
    [checkpoint] = world.registry.jobs.checkpoints("acme", job.id).data
    assert (checkpoint.step, checkpoint.adapter) == (2, "ft.acme.help.steps")
    assert checkpoint.metrics == {
        "step": 2,
        "train_loss": 0.5,
        "train_mean_token_accuracy": 0.5,
    }
    run = RunFolder(world.registry.settings.runs / job.id)
    assert run.record.version == "ft.acme.help@1"
    assert not run.epochs.exists()


def test_a_job_that_stopped_early_has_its_last_epochs_too(world: World, adapter: Path) -> None:
    class Early(Pretender):
        def _train(self, order: Order) -> None:
            super()._train(order)
            epochs = RunFolder(world.registry.settings.runs / order.job).epochs
            (epochs / "step-2").rename(epochs / "early-2")

    job = world.queued()
    world.work(Early(world.registry, adapter))
    assert world.now(job).status == "succeeded"
    checkpoints = world.registry.jobs.checkpoints(None, job.id).data
    assert [checkpoint.step for checkpoint in checkpoints] == [2]


@_dying
def test_a_worker_killed_before_the_last_word_leaves_nothing_to_be_done_twice(
    world: World, pretender: Pretender, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = world.queued()

    def die(*_: object, **__: object) -> None:
        raise SystemExit  # of the thread alone: the claim stays as it is

    monkeypatch.setattr(Claim, "succeed", die)
    world.work(pretender, lease_seconds=0.3)
    monkeypatch.undo()
    assert world.now(job).status == "running"
    wait_until(lambda: (world.work(pretender, name="b"), world.now(job).finished)[1])
    assert world.now(job).status == "succeeded"
    assert pretender.trained() == [job.id]
    versions = [version.reference for version in world.registry.list()]
    assert sorted(versions) == [f"{job.adapter}.steps@1", f"{job.adapter}@1"]
    assert len(world.registry.files.list("acme", purpose=RESULTS).data) == 1
    assert len(world.messages(job)) == len(set(world.messages(job)))


def test_a_job_cancelled_between_its_version_and_its_name_leaves_no_version(
    world: World, pretender: Pretender, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = world.queued()

    def cancel(*_: object) -> str:
        world.registry.jobs.cancel("acme", job.id)
        return "file-1"

    monkeypatch.setattr(Finish, "_result_file", cancel)
    world.work(pretender)
    assert world.now(job).status == "cancelled"
    assert [version.name for version in world.registry.list()] == [f"{job.adapter}.steps"]
    assert not (world.registry.settings.runs / job.id).exists()


def test_a_disk_that_is_full_when_the_run_is_published_is_waited_for_too(
    world: World, pretender: Pretender, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    job = world.queued()
    with monkeypatch.context() as patch:
        patch.setattr(Finish, "_result_file", full)
        world.work(pretender)
    assert world.now(job).status == "queued"
    world.work(pretender)
    assert world.now(job).status == "succeeded"
    assert pretender.trained() == [job.id]
    assert len(world.registry.list()) == 2


@pytest.mark.parametrize("passed", [True, False, None])
def test_the_certificate_is_told_and_never_the_end_of_a_job(
    world: World, adapter: Path, passed: bool | None
) -> None:
    world.registry.keys.create("acme")
    pretender = Pretender(world.registry, adapter, held_out=True)
    if passed is not None:
        figures = {"max_difference": 0.0004, "tokens": 40, "rows": 2}
        problems = [] if passed else ["it differs by 3"]
        values = {"passed": passed, "problems": problems, **figures}
        pretender.certificate = Outcome("done", values=values)
    job, plain = world.queued(), world.queued(lorikeet={"certify": False})
    world.work(pretender, server="http://127.0.0.1:9")
    assert world.now(job).status == world.now(plain).status == "succeeded"
    [order] = [order for order in pretender.orders if order.work == "certify"]
    assert (order.job, order.reference) == (job.id, f"{job.adapter}@1")
    expected = {
        True: "has passed: the log-probabilities served differ from those trained by 0.0004",
        False: "has not passed: it differs by 3",
        None: "could not be certified",
    }[passed]
    assert any(expected in text for text in world.messages(job))
    [secret] = [secret for secret in pretender.secrets if secret]
    keys = {key.tenant: key for key in world.registry.keys.list()}
    assert keys["lorikeet-certify"].revoked_at is not None
    assert world.registry.keys.find(secret) is None
