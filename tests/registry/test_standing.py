"""How things stand: versions, jobs, workers, and what trains now."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from registry import Base, Registry
from registry.finetuning.objects import FINE_TUNE
from registry.finetuning.request import JobRequest


@pytest.fixture
def queued(registry: Registry, embedded_base: Base) -> Callable[[], str]:
    """Make a job of acme's that has passed its checks; its id."""

    def made() -> str:
        with registry.files.receiving() as incoming:
            incoming.write(b'{"messages": []}\n')
            file = registry.files.add(
                incoming, tenant="acme", purpose=FINE_TUNE, filename="r.jsonl"
            )
        request = JobRequest.model_validate({"model": embedded_base.id, "training_file": file.id})
        job = registry.jobs.create(
            request, tenant="acme", base=embedded_base, place=str(embedded_base.path)
        )
        claim = registry.queue.claim_validation("worker", lease_seconds=60)
        assert claim is not None
        claim.validated({"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 1})
        return job.id

    return made


def test_an_empty_registry(registry: Registry) -> None:
    standing = registry.standings.of("sha256:none")
    assert (standing.versions, standing.quarantined, standing.workers) == (0, 0, 0)
    assert standing.jobs == {}
    assert standing.running == ()


def test_versions_of_one_base_without_the_removed(
    registry: Registry, embedded_base: Base, tmp_path: Any, make_adapter: Any
) -> None:
    for seed in range(3):
        folder = make_adapter(tmp_path / str(seed), embedded_base, seed=seed)
        registry.publish(folder, "opl", base=embedded_base)
    registry.quarantine("opl", 1, "sick")
    registry.quarantine("opl", 2, "sick")
    registry.remove("opl", 2)
    standing = registry.standings.of(embedded_base.digest)
    assert (standing.versions, standing.quarantined) == (2, 1)
    assert registry.standings.of("sha256:another").versions == 0


def test_jobs_workers_and_what_trains(
    registry: Registry, queued: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = queued(), queued()
    registry.queue.seen("worker", ["cpu"], "training")
    claim = registry.queue.claim_training("worker", lease_seconds=60)
    assert claim is not None
    now = datetime.now(UTC)
    for step, ago in ((2, 30), (4, 10)):
        monkeypatch.setattr(
            registry._database, "now", lambda _, ago=ago: now - timedelta(seconds=ago)
        )
        figures = {"step": step, "total_steps": 9, "train_loss": 1 / step, "tokens_per_second": 50}
        claim.metrics(step, "a step", figures)
    monkeypatch.setattr(registry._database, "now", lambda _: now)
    standing = registry.standings.of("sha256:none")
    assert standing.jobs == {"running": 1, "queued": 1}
    assert standing.workers == 1
    (job,) = standing.running
    assert job.id == first
    assert (job.step, job.steps, job.loss, job.tokens_per_second) == (4, 9, 0.25, 50)
    assert job.step_seconds == pytest.approx(10)
    assert job.last_event_age_seconds == pytest.approx(10)


def test_a_job_that_has_told_nothing_yet_or_nonsense(
    registry: Registry, queued: Callable[[], str]
) -> None:
    queued()
    claim = registry.queue.claim_training("worker", lease_seconds=60)
    assert claim is not None
    (job,) = registry.standings.of("sha256:none").running
    assert job.step is job.loss is job.step_seconds is None
    assert 0 <= job.last_event_age_seconds < 60
    claim.metrics(1, "a step", {"step": "first", "train_loss": "low"})
    claim.metrics(2, "a step", {"step": 2})
    (job,) = registry.standings.of("sha256:none").running
    assert (job.step, job.loss) == (2, None)
