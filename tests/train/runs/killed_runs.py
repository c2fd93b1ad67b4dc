"""Runs that kill themselves with SIGKILL, each in a fork of one process that has the imports.

    python killed_runs.py PLAN.json

The plan is a list of {"name", "settings", "data", "base", "kills": [[where, step], …]}; a run is
started, killed at the first place, resumed, killed at the next, and so on, and resumed to its end.
Writes one JSON object to stdout: for each name the folder of its run, and how its forks ended.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes  # noqa: F401
import datasets  # noqa: F401
import peft  # noqa: F401
import torch
import trl  # noqa: F401
from trl import SFTConfig, SFTTrainer  # noqa: F401

from registry import Registry
from train import trainer
from train.progress import SilentReporter, Step
from train.run import TrainRequest, resume, run
from train.runs import checkpoints
from train.runs.checkpoints import Checkpoints
from train.settings_file import load_settings


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Killer(SilentReporter):
    """Kills the process in the middle of a run."""

    def __init__(self, where: str | None, at: int) -> None:
        self._where, self._at = where, at
        places: dict[str, Callable[[], None]] = {
            "writing": self._while_a_checkpoint_is_written,
            "unsealed": self._before_the_marker,
            "sealed": self._after_the_marker,
            "trained": lambda: setattr(trainer, "save_adapter", lambda *_: die()),
            "published": self._after_publishing,
        }
        if where in places:
            places[where]()

    def step(self, step: Step) -> None:
        if self._where == "step" and step.number == self._at:
            die()

    def _while_a_checkpoint_is_written(self) -> None:
        original = torch.save

        def save(value: Any, target: Any, *args: Any, **kwargs: Any) -> None:
            if f"checkpoint-{self._at}/" in str(target):
                Path(target).write_bytes(b"PK\x03\x04 and then nothing")
                die()
            original(value, target, *args, **kwargs)

        torch.save = save

    def _before_the_marker(self) -> None:
        original = Checkpoints.seal

        def seal(self_: Checkpoints, progress: checkpoints.Progress) -> None:
            if progress.step == self._at:
                die()
            original(self_, progress)

        Checkpoints.seal = seal  # type: ignore[method-assign]

    def _after_the_marker(self) -> None:
        original = Checkpoints._remove

        def remove(self_: Checkpoints, keep: Any) -> None:
            if self._at in keep:
                die()
            original(self_, keep)

        Checkpoints._remove = remove  # type: ignore[method-assign]

    def _after_publishing(self) -> None:
        original = Registry.publish

        def publish(*args: Any, **kwargs: Any) -> None:
            original(*args, **kwargs)
            die()

        Registry.publish = publish  # type: ignore[method-assign, assignment]


def attempt(plan: dict[str, Any], number: int, folder: Path | None) -> None:
    """The run's attempt `number`, in this process."""
    where, at = (*plan["kills"], [None, 0])[number]
    killer = Killer(where, at)
    if folder is None:
        settings = load_settings(None, plan["settings"])
        run(TrainRequest(Path(plan["data"]), plan["name"], plan["base"], settings), killer)
    else:
        resume(folder, reporter=killer)


def fork(plan: dict[str, Any], number: int, folder: Path | None) -> int:
    """An attempt in a process of its own; its exit code, minus the signal where one ended it."""
    child = os.fork()
    if child == 0:
        try:
            attempt(plan, number, folder)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    ended = {}
    for plan in json.loads(Path(sys.argv[1]).read_text()):
        runs = Path(os.environ["LORIKEET_HOME"]) / "runs"
        codes, folder = [], None
        for number in range(len(plan["kills"]) + 1):
            codes.append(fork(plan, number, folder))
            folder = next(path.parent for path in runs.glob(f"{plan['name']}-*/run.json"))
        ended[plan["name"]] = {"folder": str(folder), "codes": codes}
    print(json.dumps(ended))


if __name__ == "__main__":
    main()
