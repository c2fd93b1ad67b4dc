"""`lorikeet train` against the plain SFTTrainer script: speed, memory, and what was learnt.

Both train on the same rows of the example headlines, for as many epochs, with the same rank,
learning rate, batch size and seed, each in a process of its own and with the environment it would
have by default. The plain script learns prompts and answers, Lorikeet the answers alone: so speed
is told in tokens of the rows' answers (stop token included) and in all tokens of the rows that were
seen a second of training, padding not counted, and what was learnt is judged by one code for both:
the loss of held-out answers (`score_adapters`).
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from loadtests.process import peak_mib
from loadtests.verdict import Verdict, ratio
from registry import LorikeetError

PLAIN, PLAIN_FLOAT32, OURS = "plain SFTTrainer", "plain, float32 adapter", "Lorikeet"
ROWS = Path(__file__).parents[1] / "train" / "examples" / "titulares"
BATCH_SIZE, LEARNING_RATE, RANK, SEED = 16, 1.5e-3, 16, 42
"""As the example's recipe has them."""
_LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """One trainer's run; `seconds` are those of training, the process took longer.

    `cpu_seconds` are the whole process's, with its threads that spin while they wait.

    `answer_tokens` and `tokens` are those of all rows seen. `held_out_loss` is in nats a token.
    """

    trainer: str
    rows: int
    answer_tokens: int
    tokens: int
    seconds: float
    process_seconds: float
    cpu_seconds: float
    peak_mib: float
    held_out_loss: float
    base_loss: float

    @property
    def answer_tokens_per_second(self) -> float:
        """What the promise is about."""
        return ratio(self.answer_tokens, self.seconds)

    @property
    def tokens_per_second(self) -> float:
        """Prompts and answers."""
        return ratio(self.tokens, self.seconds)

    @property
    def rows_per_second(self) -> float:
        """Rows seen."""
        return ratio(self.rows, self.seconds)


@dataclass(frozen=True, slots=True)
class Ended:
    """A child process that succeeded: what it printed, how long it took, its peak memory."""

    output: str
    seconds: float
    cpu_seconds: float
    peak_mib: float


@dataclass(frozen=True, slots=True)
class _Trained:
    adapter: Path
    seconds: float
    child: Ended


@dataclass(frozen=True)
class TrainingContest:
    """Trains with each of `trainers` on the first `rows` example rows, `epochs` times."""

    base: Path
    rows: int
    held_out_rows: int
    epochs: int
    folder: Path
    """For rows, adapters and the runs' folders."""
    output: Path
    """For the logs."""
    say: Callable[[str], None]
    trainers: Sequence[str] = (PLAIN, PLAIN_FLOAT32, OURS)

    def run(self) -> list[TrainingRun]:
        """Train, one after the other, then score all adapters. Raises LorikeetError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        data = self._take("train.jsonl", self.rows)
        held_out = self._take("heldout.jsonl", self.held_out_rows)
        done: dict[str, _Trained] = {}
        for trainer in self.trainers:
            self.say(f"training: {trainer}")
            done[trainer] = self._ours(data) if trainer == OURS else self._plain(trainer, data)
            self.say(f"{done[trainer].seconds:.0f} s of training")
        self.say("training: held-out losses")
        scores = self._score(data, held_out, [trained.adapter for trained in done.values()])
        return [
            TrainingRun(
                trainer=trainer,
                rows=self.rows * self.epochs,
                answer_tokens=scores["answer_tokens"] * self.epochs,
                tokens=scores["tokens"] * self.epochs,
                seconds=trained.seconds,
                process_seconds=trained.child.seconds,
                cpu_seconds=trained.child.cpu_seconds,
                peak_mib=trained.child.peak_mib,
                held_out_loss=loss,
                base_loss=scores["base_loss"],
            )
            for (trainer, trained), loss in zip(done.items(), scores["losses"], strict=True)
        ]

    def _take(self, name: str, rows: int) -> Path:
        """The first rows of an example file, in which the classes are interleaved."""
        lines = (ROWS / name).read_text(encoding="utf-8").splitlines(keepends=True)
        taken = self.folder / name
        taken.write_text("".join(lines[:rows]), encoding="utf-8")
        return taken

    def _plain(self, trainer: str, data: Path) -> _Trained:
        target = self.folder / label(trainer)
        command = [sys.executable, "-m", "loadtests.plain_sft"]
        command += ["--base", str(self.base), "--data", str(data), "--output", str(target)]
        command += ["--epochs", str(self.epochs), "--batch-size", str(BATCH_SIZE)]
        command += ["--learning-rate", str(LEARNING_RATE), "--rank", str(RANK)]
        command += ["--seed", str(SEED)]
        if trainer == PLAIN_FLOAT32:
            command.append("--float32-adapter")
        child = watch(command, self._log(trainer))
        result = json.loads((target / "result.json").read_text())
        return _Trained(target / "adapter", result["seconds"], child)

    def _ours(self, data: Path) -> _Trained:
        home = self.folder / "home"
        command = lorikeet_command(self.base, data, self.epochs)
        child = watch(command, self._log(OURS), {"LORIKEET_HOME": str(home)})
        result = json.loads(child.output)
        adapter = home / "runs" / result["run"] / "adapter"
        return _Trained(adapter, result["training"]["seconds"], child)

    def _score(self, data: Path, held_out: Path, adapters: Sequence[Path]) -> dict[str, Any]:
        command = [sys.executable, "-m", "loadtests.score_adapters", "--base", str(self.base)]
        command += ["--training", str(data), "--held-out", str(held_out), *map(str, adapters)]
        child = watch(command, self._log("scores"), {"OMP_WAIT_POLICY": "passive"})
        scores: dict[str, Any] = json.loads(child.output)
        return scores

    def _log(self, what: str) -> Path:
        return self.output / f"training-{label(what)}.log"


def lorikeet_command(base: Path, data: Path, epochs: int) -> list[str]:
    """`lorikeet train` with nothing held out, as the plain script holds nothing out."""
    command = [sys.executable, "-m", "lorikeet", "train", "--base", str(base), "--data", str(data)]
    command += ["--name", "bench", "--no-publish", "--json"]
    settings = {"epochs": epochs, "batch_size": BATCH_SIZE, "learning_rate": LEARNING_RATE}
    settings |= {"rank": RANK, "seed": SEED, "eval_fraction": 0}
    return command + [
        part for key, value in settings.items() for part in ("--set", f"{key}={value}")
    ]


def watch(command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> Ended:
    """Run a command to its end and look at its memory. Raises LorikeetError where it fails.

    It sees this process's environment without OMP_WAIT_POLICY, which is for it to choose, and
    without a way to the hub.
    """
    inherited = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    inherited |= {
        "HF_HUB_OFFLINE": "1",
        "LORIKEET_DATABASE_URL": "",
        "LORIKEET_STORE_URL": "",
        **(environment or {}),
    }
    begin, cpu_begin, peak = time.monotonic(), _cpu_seconds(), 0.0
    output = log.with_suffix(".out")
    with log.open("wb") as errors, output.open("wb") as printed:
        child = subprocess.Popen(command, stdout=printed, stderr=errors, env=inherited)
        try:
            while child.poll() is None:
                peak = max(peak, peak_mib(child.pid))
                time.sleep(_LOOK_SECONDS)
        finally:
            child.kill()
            child.wait()
    seconds, cpu_seconds = time.monotonic() - begin, _cpu_seconds() - cpu_begin
    if child.returncode:
        lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
        raise LorikeetError(
            f"{' '.join(command[1:4])} ended with exit code {child.returncode}: {lines[-1]}",
            remedy=f"read {log}",
        )
    return Ended(output.read_text(encoding="utf-8"), seconds, cpu_seconds, peak)


def _cpu_seconds() -> float:
    """User and system time of all child processes that have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def label(name: str) -> str:
    """`name` as a file's."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def verdicts(runs: Sequence[TrainingRun]) -> list[Verdict]:
    """Ours against the plain script as TRL has it, and against its float32 variant."""
    by_name = {run.trainer: run for run in runs}
    ours = by_name.get(OURS)
    judged: list[Verdict] = []
    for name in (PLAIN, PLAIN_FLOAT32):
        plain = by_name.get(name)
        if ours is None or plain is None:
            continue
        speed = ratio(ours.answer_tokens_per_second, plain.answer_tokens_per_second)
        loss = ratio(ours.held_out_loss, plain.held_out_loss)
        memory = ratio(ours.peak_mib, plain.peak_mib)
        of = f"of {name}'s"
        judged += [
            Verdict(f"training: trained tokens/s {of}", speed, 1.5),
            Verdict(f"training: held-out loss {of}", loss, 1, at_most=True),
            Verdict(f"training: peak memory {of}", memory, 1, at_most=True),
        ]
    return judged


def table(runs: Sequence[TrainingRun]) -> Table:
    """For a terminal."""
    title = f"Training; held-out loss of the base {runs[0].base_loss:.3f}" if runs else "Training"
    shown = Table(title=title)
    headings = ("answer tokens/s", "all tokens/s", "rows/s", "training", "process", "CPU time")
    for heading in ("trainer", *headings, "peak memory", "held-out loss"):
        shown.add_column(heading, justify="left" if heading == "trainer" else "right")
    for run in runs:
        shown.add_row(
            run.trainer,
            f"{run.answer_tokens_per_second:.1f}",
            f"{run.tokens_per_second:.0f}",
            f"{run.rows_per_second:.2f}",
            f"{run.seconds:.0f} s",
            f"{run.process_seconds:.0f} s",
            f"{run.cpu_seconds:.0f} s",
            f"{run.peak_mib:.0f} MiB",
            f"{run.held_out_loss:.4f}",
        )
    return shown
