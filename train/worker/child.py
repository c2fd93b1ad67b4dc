"""One piece of work on a job, in a process of its own: the worker itself never loads a model.

    python -m train.worker.child FOLDER PARENT

FOLDER is the job's (`train.worker.order`), PARENT the worker's process id. SIGTERM ends a training
after the step that it is in, with a checkpoint, and anything else at once. A line on the standard
input is the key of the server to ask.
"""

import signal
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.worker.lifeline import die_first, die_with
from train.worker.order import JobFolder, Order, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry import Base, RegistrySettings, Version
    from train.handoff.score_server import ScoreServer
    from train.progress import Reporter, Step


def main() -> None:
    """Do what the order says, and write what became of it."""
    die_with(int(sys.argv[2]))
    die_first()
    from registry import RegistrySettings
    from registry.disk import is_full
    from train.hardware import yield_idle_cores
    from train.worker.launch import DISK_FULL_EXIT

    yield_idle_cores()
    folder = JobFolder(RegistrySettings(), Path(sys.argv[1]).name)
    stop = Stop()
    signal.signal(signal.SIGTERM, stop.on_signal)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    outcome = work(folder.order(), stop)
    try:
        folder.answer(outcome)
    except OSError as error:
        traceback.print_exc()
        sys.exit(DISK_FULL_EXIT if is_full(error) else 1)


def work(order: Order, stop: "Stop") -> Outcome:
    """The outcome of the order; whatever is raised is one, and its trace is printed."""
    from rich.console import Console

    from registry import RegistrySettings
    from train.progress import PlainReporter
    from train.worker.failures import failure

    settings = RegistrySettings()
    reporter = stop.listening(PlainReporter(Console(width=200)))
    try:
        match order.work:
            case "validate":
                return _validate(order, settings, reporter)
            case "train":
                return _train(order, settings, reporter, stop)
            case "certify":
                return _certify(order, settings, reporter)
    except BaseException as error:
        traceback.print_exc()
        return failure(error, order)


class Stop:
    """Whether the worker has asked for the end, and what has to happen then."""

    def __init__(self) -> None:
        self.asked = False
        self.training = False

    def on_signal(self, *_: object) -> None:
        """Raise KeyboardInterrupt, but while training, where the step is ended first."""
        self.asked = True
        if not self.training:
            raise KeyboardInterrupt

    def listening(self, reporter: "Reporter") -> "Reporter":
        """The reporter, which also hears when the training begins and when it is over."""
        return _Listener(self, reporter)


class _Listener:
    """Training is from its first step until anything else is told."""

    def __init__(self, stop: Stop, reporter: "Reporter") -> None:
        self._stop, self._reporter = stop, reporter

    def note(self, text: str) -> None:
        self._over()
        self._reporter.note(text)

    def making(self, what: str, fraction: float) -> None:
        self._over()
        self._reporter.making(what, fraction)

    def step(self, step: "Step") -> None:
        self._stop.training = True
        self._reporter.step(step)

    def answered(self, what: str, done: int, total: int) -> None:
        self._over()
        self._reporter.answered(what, done, total)

    def _over(self) -> None:
        self._stop.training = False
        if self._stop.asked:
            raise KeyboardInterrupt


def _base(order: Order, settings: "RegistrySettings", reporter: "Reporter") -> "Base | Outcome":
    from registry import resolve_base
    from train.worker.failures import BASE_CHANGED, BASE_GONE

    base = resolve_base(order.base_place, settings, reporter.making)
    if base.digest == order.base_digest:
        return base
    return Outcome("failed", BASE_CHANGED, BASE_GONE, "model")


def _validate(order: Order, settings: "RegistrySettings", reporter: "Reporter") -> Outcome:
    from train.settings_file import settings_with
    from train.worker.check_files import check_files

    base = _base(order, settings, reporter)
    if isinstance(base, Outcome):
        return base
    return check_files(order, base, settings_with(order.settings), reporter)


def _train(order: Order, settings: "RegistrySettings", reporter: "Reporter", stop: Stop) -> Outcome:
    """Train, or go on with it; a run that is done already is left as it is."""
    from train.errors import RunChanged, RunDamaged, UnknownRun
    from train.run import TrainRequest, resume, run
    from train.runs.folder import RunFolder
    from train.settings_file import settings_with
    from train.worker.check_files import damaged

    if bad := damaged(order):
        return bad
    base = _base(order, settings, reporter)
    if isinstance(base, Outcome):
        return base

    def asked() -> bool:
        return stop.asked

    try:
        folder = RunFolder.open(settings, settings.runs / order.job)
        if folder.record.status != "succeeded":
            resume(folder.path, settings, reporter, asked_to_stop=asked)
        return Outcome("done")
    except UnknownRun:
        pass
    except (RunDamaged, RunChanged) as error:
        reporter.note(f"{error.message}: the training begins anew")
        RunFolder(settings.runs / order.job).discard()
    request = TrainRequest(
        data=Path(order.training.path),
        name=order.adapter,
        base=order.base_place,
        settings=settings_with(order.settings),
        eval_data=Path(order.validation.path) if order.validation else None,
        publish=False,
        job=order.job,
        registry_settings=settings,
    )
    run(request, reporter, asked_to_stop=asked)
    return Outcome("done")


def _certify(order: Order, settings: "RegistrySettings", reporter: "Reporter") -> Outcome:
    from train.handoff.certify_version import CertifyRequest, certify_version
    from train.handoff.score_server import ScoreServer

    assert order.reference is not None
    assert order.server is not None
    key = sys.stdin.readline().strip() or None
    server = ScoreServer(order.server, key)

    @contextmanager
    def opened(_: "Base", __: "Version") -> "Iterator[ScoreServer]":
        yield server

    request = CertifyRequest(order.reference, base=order.base_place, registry_settings=settings)
    _, certificate = certify_version(request, opened, reporter)
    values: dict[str, Any] = certificate.as_dict()
    return Outcome("done", values=values)


if __name__ == "__main__":
    main()
