"""Where the time of a training goes: `lorikeet train` without each of its savings in turn.

    python -m loadtests.training_profile --rows 128

Each variant trains on the same example headlines in a process of its own. Times are those of
training; CPU times are those of the whole process, its start included, and the better guide where
the machine has other work. Each is followed by its share of that of the trainer as it is.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from loadtests.machine import describe_machine
from loadtests.training import ROWS, Ended, label, lorikeet_command, watch
from loadtests.verdict import ratio
from registry import DEFAULT_BASE, RegistrySettings, resolve_base
from registry.terminal import run_command


@dataclass(frozen=True, slots=True)
class Variant:
    """A trainer without some savings: those of `loadtests.without`, and those that are settings.

    `waits` is OMP_WAIT_POLICY, which Lorikeet sets to passive where it is not set.
    """

    what: str
    without: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    waits: str | None = None


_UNSHARED = ("share_prefix=false",)
VARIANTS = (
    Variant("as it is"),
    Variant("threads spin while they wait", waits="active"),
    Variant("prefix not shared", settings=_UNSHARED),
    Variant("logits at every position", without=("logits",)),
    Variant("rows in random order", without=("order",)),
    Variant("entropy and accuracy of each token", without=("bookkeeping",)),
    Variant("adapter in bfloat16", without=("float32",)),
    Variant("activations recomputed, prefix not shared", settings=("gradient_checkpointing=true",)),
    Variant("prefix not shared, logits at every position", ("logits",), _UNSHARED),
    Variant("loss of prompts too", without=("prompts",)),
    Variant(
        "none of them",
        ("prompts", "logits", "order", "bookkeeping", "float32"),
        (*_UNSHARED, "gradient_checkpointing=true"),
    ),
)


@dataclass(frozen=True, slots=True)
class Timed:
    """A variant, its seconds of training, the CPU time and the peak memory of its process."""

    variant: Variant
    seconds: float
    cpu_seconds: float
    peak_mib: float


def profile(
    base: Annotated[
        str, typer.Option(help="Base model: its name, a Hugging Face id or a local folder.")
    ] = DEFAULT_BASE,
    rows: Annotated[int, typer.Option(min=1, help="Example headlines to train on, once.")] = 128,
    output: Annotated[Path, typer.Option(help="Folder for the JSON and the logs.")] = Path(
        "results"
    ),
) -> None:
    """Train without each saving in turn and print what that costs."""
    found = resolve_base(base, RegistrySettings())
    output.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    timed: list[Timed] = []
    with tempfile.TemporaryDirectory(prefix="lorikeet-profile-") as folder:
        for variant in VARIANTS:
            console.print(f"[dim]{time.strftime('%H:%M:%S')}[/]  {variant.what}")
            timed.append(measure(variant, found.path, rows, Path(folder), output))
    path = output / "training-profile.json"
    document = {
        "machine": describe_machine(),
        "rows": rows,
        "variants": [asdict(each) for each in timed],
    }
    path.write_text(json.dumps(document, indent=2) + "\n")
    console.print(table(timed, rows))
    console.print(f"Written to {path}.", soft_wrap=True)


def measure(variant: Variant, base: Path, rows: int, folder: Path, output: Path) -> Timed:
    """Train one variant. Raises LorikeetError."""
    data = folder / "rows.jsonl"
    lines = (ROWS / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    data.write_text("".join(lines[:rows]), encoding="utf-8")
    command = lorikeet_command(base, data, epochs=1)
    command[2:3] = ["loadtests.without", ",".join(variant.without)]
    command += [part for setting in variant.settings for part in ("--set", setting)]
    environment = {"LORIKEET_HOME": str(folder / "home")}
    if variant.waits:
        environment["OMP_WAIT_POLICY"] = variant.waits
    child: Ended = watch(command, output / f"profile-{label(variant.what)}.log", environment)
    seconds = json.loads(child.output)["training"]["seconds"]
    return Timed(variant, seconds, child.cpu_seconds, child.peak_mib)


def table(timed: Sequence[Timed], rows: int) -> Table:
    """For a terminal; the first of `timed` is what the others are compared with."""
    shown = Table(title="Where the time of a training goes")
    shown.add_column("lorikeet train")
    for heading in ("rows/s", "time", "", "CPU time", "", "peak memory"):
        shown.add_column(heading, justify="right")
    first = timed[0]
    for each in timed:
        shown.add_row(
            each.variant.what,
            f"{ratio(rows, each.seconds):.2f}",
            f"{each.seconds:.1f} s",
            f"{ratio(each.seconds, first.seconds):.2f}",
            f"{each.cpu_seconds:.1f} s",
            f"{ratio(each.cpu_seconds, first.cpu_seconds):.2f}",
            f"{each.peak_mib:.0f} MiB",
        )
    return shown


def main() -> None:
    """The command line; every expected failure is one clear error."""
    run_command(profile)


if __name__ == "__main__":
    main()
