"""One run over the workers of a Ray cluster: `lorikeet train … --ray-workers 4`.

Ray Train starts the processes, on one machine or on many, and joins them as `accelerate launch`
does on one; each then does what it does there. All of them need the same data folder and the same
registry: on several machines a shared file system and PostgreSQL. Without a cluster (RAY_ADDRESS,
or one that `ray start` began here) one is started for the run, on this machine.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry import LorikeetError, RegistrySettings, UsageError
from train.errors import Interrupted, TrainingFailed

if TYPE_CHECKING:
    from train.progress import Reporter
    from train.run import TrainResult

Start = Callable[["Reporter"], "TrainResult"]
"""`train.run.run` or `resume`, with all that it needs but the reporter."""

FOLDER = "ray"


def train_on_ray(
    start: Start, workers: int, settings: RegistrySettings, recipe: Path | None = None
) -> "TrainResult":
    """Have `workers` processes of a Ray cluster make one run; the result is the first one's.

    Each takes a GPU where the cluster has any, else a core. `recipe` is a configuration of
    `accelerate launch`, such as train/accelerate/fsdp_qlora.yaml. Raises LorikeetError.
    """
    try:
        import ray
        from ray.train import RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.torch import TorchTrainer
    except ImportError as error:
        raise UsageError(
            f"--ray-workers: Ray Train is not installed: {error}",
            remedy="`make install` has it; or use accelerate launch",
        ) from error

    variables = {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive")}
    if recipe is not None:
        variables |= _accelerate_variables(recipe, workers)
    with _cluster() as resources:
        gpus = int(resources.get("GPU", 0))
        cores = int(resources.get("CPU", 0))
        if workers > (gpus or cores):
            raise UsageError(
                f"--ray-workers {workers}: the Ray cluster has {gpus} GPUs and {cores} cores, and "
                "each worker takes one of the GPUs, where there are any",
                remedy="ask for fewer workers, or add machines to the cluster",
            )
        trainer = TorchTrainer(
            partial(_work, start),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus > 0),
            run_config=RunConfig(
                storage_path=str(settings.home / FOLDER),
                worker_runtime_env={"env_vars": variables},
            ),
        )
        try:
            result: TrainResult = trainer.fit().return_value
        except (KeyboardInterrupt, SystemExit):  # Ray's own handler of Ctrl-C calls sys.exit
            raise _stopped() from None
        except (TrainingFailedError, ray.exceptions.RayError) as error:
            raise _ours(error) from error
        return result


def _work(start: Start) -> "TrainResult":
    """What each worker does; the first one tells of it."""
    from rich.console import Console

    from train.processes import launched
    from train.progress import SilentReporter, reporting

    if not launched().is_first:
        return start(SilentReporter())
    with reporting(Console(stderr=True)) as reporter:
        return start(reporter)


@contextmanager
def _cluster() -> Iterator[dict[str, float]]:
    """The resources of the cluster that is there, or of one for this machine and this run."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # as without Ray
    mine = not ray.is_initialized()
    if mine:
        try:
            ray.init(include_dashboard=False, logging_level="warning")
        except (ConnectionError, ray.exceptions.RayError, TimeoutError) as error:
            raise TrainingFailed(
                f"the Ray cluster cannot be reached: {error}",
                remedy="look at RAY_ADDRESS, or unset it to use this machine alone",
            ) from error
    try:
        yield ray.cluster_resources()
    finally:
        if mine:
            ray.shutdown()


def _accelerate_variables(recipe: Path, workers: int) -> dict[str, str]:
    """What `accelerate launch --config_file` tells its processes of FSDP and mixed precision."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    try:
        load_config_from_file(str(recipe))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--accelerate-config {recipe}: {error}",
            remedy="name a file of `accelerate config`, or train/accelerate/fsdp_qlora.yaml",
        ) from error
    command = ["--config_file", str(recipe), "--num_processes", str(workers), "-m", "lorikeet"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(command))
    told = prepare_multi_gpu_env(arguments)
    return {
        name: value for name, value in told.items() if name.startswith(("ACCELERATE_", "FSDP_"))
    }


def _ours(error: BaseException) -> LorikeetError:
    """The first worker's own error, where it is one of ours."""
    failures: dict[int, Any] = getattr(error, "worker_failures", {})
    for _, failure in sorted(failures.items()):
        found: BaseException | None = failure
        while found is not None:
            if isinstance(found, LorikeetError):
                return found
            if isinstance(found, KeyboardInterrupt):
                return _stopped()
            found = getattr(found, "_base_exc", None)  # what Ray Train wraps a worker's error in
    told = next((f"{failure}" for _, failure in sorted(failures.items())), "").strip()
    last = (told or f"{error}".strip() or "?").splitlines()[-1]
    return TrainingFailed(
        f"a worker of the Ray cluster failed: {last}",
        remedy="go on with --resume RUN once it is mended; Ray's log of it is above",
    )


def _stopped() -> Interrupted:
    return Interrupted("stopped; what was trained is kept", remedy="go on with --resume RUN")
