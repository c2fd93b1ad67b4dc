"""What a scrape asks of engine, registry and disk, and that none of them breaks or delays it."""

import asyncio
import time
from typing import Any

import pytest
from scraped import scrape

from registry import Registry, RegistryUnavailable

pytestmark = pytest.mark.anyio


async def test_a_scrape_while_the_engine_is_away(run: Any) -> None:
    async with run() as running:
        before = await scrape(running)
        running.service.engine.die()
        during = await scrape(running)
        async with asyncio.timeout(20):
            while running.service.status != "ready":
                await scrape(running)
                await asyncio.sleep(0.05)
        after = await scrape(running)
    assert [s.value("lorikeet_engine_up") for s in (before, during, after)] == [1, 0, 1]
    assert [s.value("lorikeet_ready") for s in (before, during, after)] == [1, 0, 1]
    assert after.value("lorikeet_engine_restarts_total") == 1
    (config,) = [s.labels for s in during.samples if s.name == "lorikeet_config_info"]
    assert (config["base"], config["dtype"], config["max_loras"]) == ("tiny", "float32", "8")


async def test_an_engine_whose_own_metrics_are_broken(run: Any, monkeypatch: Any) -> None:
    async with run() as running:
        monkeypatch.setattr(running.service.engine, "metrics", lambda: 1 / 0)
        assert (await scrape(running)).value("lorikeet_engine_up") == 1


async def test_a_registry_that_is_away_or_slow_holds_up_no_scrape(
    run: Any, publish: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    publish("opl")
    monkeypatch.setattr("serve.registry_watch.FRESH_SECONDS", 0.0)
    monkeypatch.setattr("serve.registry_watch.WAIT_SECONDS", 0.05)
    async with run() as running:
        standings = running.service.registry.standings
        running.service.registry.standings = away = _Away(standings)
        while "disk" not in (up := await scrape(running)).by("lorikeet_adapters", "tier"):
            pass
        away.error = RegistryUnavailable("the database is away")
        down = [await scrape(running) for _ in range(3)][-1]
        away.error, away.seconds = None, 0.5
        slow = await scrape(running)
    for seen in up, down, slow:
        assert seen.value("lorikeet_adapters", tier="disk") == 1
        assert seen.value("lorikeet_disk_total_bytes") > seen.value("lorikeet_disk_free_bytes") > 0
    complaints = [record for record in caplog.records if "cannot be read" in record.message]
    assert len(complaints) == 1


class _Away:
    """Standings that fail, or take a while."""

    def __init__(self, standings: Any) -> None:
        self.standings = standings
        self.error: Exception | None = None
        self.seconds = 0.0

    def of(self, digest: str) -> Any:
        time.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return self.standings.of(digest)


async def test_fine_tuning_jobs_that_run(run: Any, registry: Registry, base: Any) -> None:
    from registry.finetuning.objects import FINE_TUNE
    from registry.finetuning.request import JobRequest

    with registry.files.receiving() as incoming:
        incoming.write(b'{"messages": []}\n')
        file = registry.files.add(incoming, tenant="acme", purpose=FINE_TUNE, filename="r.jsonl")
    request = JobRequest.model_validate({"model": base.id, "training_file": file.id})
    job = registry.jobs.create(request, tenant="acme", base=base, place=str(base.path))
    checks = registry.queue.claim_validation("worker", lease_seconds=60)
    assert checks is not None
    checks.validated({"n_epochs": 1, "batch_size": 8, "learning_rate_multiplier": 1})
    claim = registry.queue.claim_training("worker", lease_seconds=60)
    assert claim is not None
    claim.metrics(3, "a step", {"step": 3, "total_steps": 9, "train_loss": 0.5})
    async with run() as running:
        scraped = await scrape(running)
    assert scraped.value("lorikeet_training_jobs", status="running") == 1
    assert scraped.value("lorikeet_training_jobs", status="failed") == 0
    assert scraped.by("lorikeet_training_step", "training_job") == {job.id: 3}
    assert scraped.by("lorikeet_training_loss", "training_job") == {job.id: 0.5}
    assert scraped.by("lorikeet_training_tokens_per_second", "training_job") == {}
    assert 0 <= scraped.value("lorikeet_training_last_event_age_seconds") < 60
