"""Memory: a training that has no room fails or waits, with figures, before it starts."""

from dataclasses import replace

import pytest
from child_processes import Scripted
from worker_world import CPU, World, at_work, wait_until

from train.settings import TrainSettings
from train.worker import headroom
from train.worker.devices import Device, Memory
from train.worker.headroom import compared, judge
from train.worker.order import Outcome
from train.worker.recipe import settings_for
from train.worker.settings import WorkerSettings
from train.worker.worker import Worker

GIB = 1024**3


def test_a_training_fits_waits_or_never_will() -> None:
    memory = Memory(free=4 * GIB, total=16 * GIB)
    assert compared(3 * GIB, memory, CPU).when == "fits"
    later = compared(5 * GIB, memory, Device("0"))
    assert later.when == "later"
    assert "about 5.0 GiB" in later.message
    assert "4.0 of 16.0 GiB are free now" in later.message
    assert "--gpu-memory-utilization 0.6" in later.message
    never = compared(17 * GIB, memory, CPU)
    assert never.when == "never"
    assert "16.0 GiB in all. Lower batch_size" in never.message


def test_the_need_is_the_planners_for_rows_as_long_as_they_are(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, needs = world.job(), []
    monkeypatch.setattr(Device, "memory", lambda _: Memory(GIB, GIB))
    monkeypatch.setattr(
        headroom, "compared", lambda need, memory, device: needs.append((need, device.name))
    )
    settings = TrainSettings(max_length=1024)
    for rows, device in (({}, "cpu"), ({"longest": 64, "trained": 8}, "cpu"), ({}, "0")):
        judge(job, settings, rows, Device(device), world.registry.settings)
    (worst, _), (actual, _), (gpu, name) = needs
    assert actual < worst
    assert (gpu != worst, name) == (True, "0")


def test_where_nothing_is_told_of_memory_or_the_model_it_is_tried(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, settings = world.job(), settings_for(world.job())
    monkeypatch.setattr(Device, "memory", lambda _: None)
    assert judge(job, settings, {}, CPU, world.registry.settings).when == "fits"
    monkeypatch.setattr(Device, "memory", lambda _: Memory(0, 0))
    assert judge(job, settings, {}, CPU, world.registry.settings).when == "never"
    gone = replace(job, base_place="/no/such/model")
    assert judge(gone, settings, {}, CPU, world.registry.settings).when == "fits"


def test_more_than_there_is_fails_the_job_and_more_than_is_free_lets_it_wait(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = [Memory(64 * GIB, 64 * GIB)]
    monkeypatch.setattr(Device, "memory", lambda _: memory[0])
    launch = Scripted(lambda _: Outcome("failed", "internal_error", "it was tried"))
    too_large = world.queued()
    memory[0] = Memory(0, 1024)
    world.work(launch)
    error = world.now(too_large).error
    assert error is not None
    assert error["code"] == "out_of_memory"
    assert "GiB in all" in error["message"]
    waiting = world.queued()
    memory[0] = Memory(1024, 64 * GIB)
    world.work(launch)
    assert world.now(waiting).status == "queued"
    world.work(launch)  # another worker, in the same hour
    told = [text for text in world.messages(waiting) if "waits for memory" in text]
    assert len(told) == 1
    assert not any("started" in text or "goes on" in text for text in world.messages(waiting))
    assert launch.orders == []
    with at_work(world.worker(launch, retry_seconds=0.2)):
        memory[0] = Memory(64 * GIB, 64 * GIB)
        wait_until(lambda: world.now(waiting).status == "failed")
    error = world.now(waiting).error
    assert error is not None
    assert error["message"] == "it was tried"


def test_what_is_too_large_for_one_device_waits_for_another(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"0": Memory(1024, 1024), "1": Memory(64 * GIB, 64 * GIB)}
    monkeypatch.setattr(Device, "memory", lambda device: sizes[device.name])
    launch = Scripted(lambda _: Outcome("failed", "internal_error", "it was tried"))
    job = world.queued()
    settings = WorkerSettings(name="w", poll_seconds=0.05, lease_seconds=5)
    worker = Worker(world.registry, settings, [Device("0"), Device("1")], launch=launch)
    assert worker._train(Device("0"))
    assert world.now(job).status == "queued"
    assert "too large for device 0; it waits for another" in world.messages(job)[-1]
    assert not worker._train(Device("0"))
    assert worker._train(Device("1"))
    error = world.now(job).error
    assert error is not None
    assert error["message"] == "it was tried"
