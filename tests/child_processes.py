"""Children of a worker for its tests: forked with the imports done, scripted, or none at all."""

import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from registry import Registry, RegistrySettings
from train.hardware import yield_idle_cores
from train.runs.folder import RunFolder, RunRecord, write_json
from train.runs.metrics import Metrics
from train.settings_file import settings_with
from train.worker import child
from train.worker.launch import Running
from train.worker.order import JobFolder, Order, Outcome

_IMPORTED = [
    "bitsandbytes",
    "datasets",
    "matplotlib.pyplot",
    "peft",
    "transformers.trainer",
    "trl.trainer.sft_trainer",
    "train.run",
    "train.worker.check_files",
]


class Forked:
    """Starts real children, each forked from one process that has loaded the libraries."""

    def __init__(self, home: Path) -> None:
        yield_idle_cores()
        self._home = home
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_IMPORTED)
        self.pids: list[int] = []

    def __call__(
        self, folder: Path, environment: Mapping[str, str], secret: str | None = None
    ) -> Running:
        variables = {**environment, "LORIKEET_HOME": str(self._home)}
        process = self._context.Process(target=_as_child, args=(str(folder), variables))
        process.start()
        assert process.pid is not None
        self.pids.append(process.pid)
        return _ForkedChild(process)


class _ForkedChild:
    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process

    def wait(self, seconds: float) -> int | None:
        self._process.join(seconds)
        return self._process.exitcode

    def stop(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def _as_child(folder: str, variables: dict[str, str]) -> None:
    os.environ.update(variables)
    with (Path(folder) / "log").open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.argv = ["child", folder, str(os.getppid())]
    child.main()


class Here:
    """Does the work of children in the thread that starts them. LORIKEET_HOME has to be set."""

    def __call__(
        self, folder: Path, environment: Mapping[str, str], secret: str | None = None
    ) -> Running:
        place = _folder(folder)
        place.answer(child.work(place.order(), child.Stop()))
        return Ended()


Script = Callable[[Order], Outcome | int]
"""What a child would say; a number is the exit code of one that said nothing."""


class Scripted:
    """Children that do nothing, and end as the script says."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.orders: list[Order] = []

    def __call__(
        self, folder: Path, environment: Mapping[str, str], secret: str | None = None
    ) -> Running:
        place = _folder(folder)
        order = place.order()
        self.orders.append(order)
        said = self._script(order)
        if isinstance(said, int):
            return Ended(said)
        place.answer(said)
        return Ended()


class Ended:
    """A child that has ended already."""

    def __init__(self, code: int = 0) -> None:
        self._code = code

    def wait(self, seconds: float) -> int | None:
        return self._code

    def stop(self) -> None:
        """It has ended."""

    def kill(self) -> None:
        """It has ended."""


class Endless:
    """A child that works until it is ended, in good order or not."""

    def __init__(self, *, heeds_stop: bool = True) -> None:
        self._heeds_stop = heeds_stop
        self.code: int | None = None
        self.signals: list[str] = []

    def __call__(
        self, folder: Path, environment: Mapping[str, str], secret: str | None = None
    ) -> Running:
        self.code = None
        return self

    def wait(self, seconds: float) -> int | None:
        if self.code is None:
            time.sleep(min(seconds, 0.01))
        return self.code

    def stop(self) -> None:
        self.signals.append("stop")
        if self._heeds_stop:
            self.code = 0

    def kill(self) -> None:
        self.signals.append("kill")
        self.code = -signal.SIGKILL


def _folder(path: Path) -> JobFolder:
    return JobFolder(RegistrySettings(home=path.parents[1]), path.name)


class Pretender:
    """Children that say that all is well; a training leaves a run that is done, with `adapter`."""

    def __init__(
        self, registry: Registry, adapter: Path, *, held_out: bool = False, epochs: bool = True
    ) -> None:
        self._registry, self._adapter = registry, adapter
        self._held_out, self._epochs = held_out, epochs
        self.orders: list[Order] = []
        self.secrets: list[str | None] = []
        self.certificate = Outcome("failed", "internal_error", "no certificate")

    def __call__(
        self, folder: Path, environment: Mapping[str, str], secret: str | None = None
    ) -> Running:
        place = _folder(folder)
        order = place.order()
        self.orders.append(order)
        self.secrets.append(secret)
        if order.work == "train":
            self._train(order)
        place.answer(self._says(order))
        return Ended()

    def trained(self) -> list[str]:
        """The jobs that were trained, in their order."""
        return [order.job for order in self.orders if order.work == "train"]

    def _says(self, order: Order) -> Outcome:
        if order.work == "certify":
            return self.certificate
        hyperparameters = {"n_epochs": 1, "batch_size": 4, "learning_rate_multiplier": 1.0}
        rows = {"longest": 40, "trained": 2}
        return Outcome("done", values={"hyperparameters": hyperparameters, "rows": rows})

    def _train(self, order: Order) -> None:
        record = RunRecord(
            id="",
            name=order.adapter,
            base=order.base_place,
            data=order.training.path,
            publish=False,
            job=order.job,
        )
        settings = settings_with(order.settings)
        run = RunFolder.create(self._registry.settings, record, settings)
        shutil.copytree(self._adapter, run.adapter)
        if self._epochs:
            shutil.copytree(self._adapter, run.epochs / "step-2")
        write_json(run.training, {"run": run.id, "settings": order.settings, "tokens": 123})
        write_json(run.data_file, {"data": {"sha256": order.training.sha256}})
        for step in (1, 2):
            line = {"step": step, "total_steps": 2, "epoch": step / 2, "loss": 1.0 / step}
            figures = {"mean_token_accuracy": 0.5, "learning_rate": 1e-4}
            counts = {"tokens": step, "trained_tokens": 1, "seconds": 0.1}
            Metrics(run.metrics).append({**line, **figures, **counts})
        if self._held_out:
            run.held_out.write_text("")
        run.finish("succeeded")
