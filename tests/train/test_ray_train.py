"""The same run over two workers of a Ray cluster, on this machine's CPU."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
from ray_processes import forget_rays_processes
from typer.testing import CliRunner

import train
from lorikeet import app
from registry import Registry, RegistrySettings, UsageError
from train.errors import DataError, Interrupted, TrainingFailed
from train.ray_train import _accelerate_variables, _ours, train_on_ray
from train.run import TrainRequest, run
from train.settings import TrainSettings

RECIPE = Path(train.__file__).parent / "accelerate" / "fsdp_qlora.yaml"
ROWS = [{"prompt": f"Thing {n}?", "completion": ("blue", "white")[n % 2]} for n in range(16)]
HELD_OUT = [{"prompt": "Another thing?", "completion": "blue"}]
SETTINGS = {"threads": 1, "epochs": 2, "rank": 4, "learning_rate": 0.02, "baselines": False}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Ray cluster of this machine's own, for two workers."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    ray.init("local", num_cpus=2, include_dashboard=False, logging_level="warning")
    yield
    ray.shutdown()
    forget_rays_processes()


def command(*options: str) -> Any:
    return CliRunner().invoke(app, ["train", "--ray-workers", "2", "--json", *options])


@pytest.mark.timeout(500)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("cluster")
def test_two_workers_stopped_and_resumed_train_the_adapter_that_one_process_does(
    home: Path, tiny_base: Path, tmp_path: Path
) -> None:
    data, held_out = tmp_path / "rows.jsonl", tmp_path / "held.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    held_out.write_text("".join(json.dumps(row) + "\n" for row in HELD_OUT))

    def request(name: str, batch_size: int) -> TrainRequest:
        settings = TrainSettings(batch_size=batch_size, **SETTINGS)  # type: ignore[arg-type]
        return TrainRequest(data, name, tiny_base, settings, eval_data=held_out)

    one = run(request("one", 4))
    start = partial(run, request("two", 2), asked_to_stop=partial(bool, True))
    # The other worker may lose its peer before the first has told why it stops.
    with pytest.raises((Interrupted, TrainingFailed)):
        train_on_ray(start, 2, RegistrySettings(home=home))
    (folder,) = (home / "runs").glob("two-*")  # one process has written

    done = command("--resume", folder.name)
    assert done.exit_code == 0, done.output
    two = json.loads(done.stdout[done.stdout.index("{") :])
    assert two["version"] == "two@1"
    assert two["training"]["losses"] == pytest.approx(one.training["losses"], rel=1e-3)
    assert two["training"]["tokens"] == one.training["tokens"]
    assert one.evaluation is not None
    assert two["evaluation"]["adapter"]["loss"] == pytest.approx(
        one.evaluation.adapter.loss, rel=1e-3
    )
    with Registry.open(RegistrySettings(home=home)) as registry:
        assert sum(version.name == "two" for version in registry.list()) == 1
    too_many = CliRunner().invoke(app, ["train", "--ray-workers", "3", "--resume", folder.name])
    assert isinstance(too_many.exception, UsageError)
    assert "2 cores" in too_many.exception.message


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("cluster")
def test_ctrl_c_is_no_success(home: Path) -> None:
    """Ray has a handler of its own, which leaves with exit code 0."""
    driver = os.getpid()

    def start(_: object) -> Any:
        os.kill(driver, signal.SIGINT)
        time.sleep(60)

    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(Interrupted, match="what was trained is kept"):
            train_on_ray(start, 1, RegistrySettings(home=home))
    finally:
        signal.signal(signal.SIGINT, before)


def test_fewer_gpus_than_workers_do_not_mean_cores(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def machines() -> Iterator[dict[str, float]]:
        yield {"GPU": 4.0, "CPU": 64.0}

    monkeypatch.setattr("train.ray_train._cluster", machines)
    with pytest.raises(UsageError, match="has 4 GPUs and 64 cores"):
        train_on_ray(lambda _: pytest.fail("it trained"), 8, RegistrySettings(home=home))


def test_a_recipe_of_accelerate_is_told_to_every_worker(tmp_path: Path) -> None:
    told = _accelerate_variables(RECIPE, 4)
    assert told["ACCELERATE_USE_FSDP"] == "true"
    assert told["FSDP_STATE_DICT_TYPE"] == "FULL_STATE_DICT"
    assert not {"WORLD_SIZE", "RANK", "MASTER_ADDR"} & told.keys()  # those are Ray's to say
    with pytest.raises(UsageError, match="--accelerate-config"):
        _accelerate_variables(tmp_path / "none.yaml", 2)


def test_an_error_of_a_worker_is_ours() -> None:
    class Failed(Exception):
        worker_failures: Any = None

    class Wrapped(Exception):
        def __init__(self, inner: BaseException) -> None:
            self._base_exc = inner

    failed = Failed("all")
    failed.worker_failures = {1: Wrapped(ValueError("late")), 0: Wrapped(DataError("no rows"))}
    assert isinstance(_ours(failed), DataError)
    failed.worker_failures = {1: Wrapped(KeyboardInterrupt())}
    assert isinstance(_ours(failed), Interrupted)
    failed.worker_failures = {0: RuntimeError()}
    assert "failed:" in _ours(failed).message
    failed.worker_failures = {0: RuntimeError("first line\nthe GPU is gone")}
    other = _ours(failed)
    assert isinstance(other, TrainingFailed)
    assert not isinstance(other, Interrupted)
    assert "the GPU is gone" in other.message
