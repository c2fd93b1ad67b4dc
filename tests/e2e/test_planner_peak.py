"""The planner's peak against that of a real run: SmolLM2 in NF4 on the CPU, in its own process."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from registry import DEFAULT_BASE, Base, RegistrySettings
from train.planner.architecture import Architecture
from train.planner.memory import Workload, training_memory
from train.planner.source import read_config
from train.settings import TrainSettings

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.beside

ROWS, LENGTH, TRAINED, STEPS = 4, 256, 48, 2

CHILD = """
import json, random, sys
from train.hardware import detect, yield_idle_cores
yield_idle_cores()
import bitsandbytes, datasets, peft, transformers, trl
from trl import SFTTrainer
from registry import DEFAULT_BASE, RegistrySettings, resolve_base
from train.allocation import give_back_freed_memory
from train.base_model import load_base, load_tokenizer
from train.data.masking import Encoded
from train.settings import TrainSettings
from train.trainer import train_adapter

def resident(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))

rows, length, trained, steps, recomputes = json.loads(sys.argv[1])
imports = resident("VmRSS")
give_back_freed_memory()
settings = TrainSettings(
    batch_size=rows, max_steps=steps, max_length=length, gradient_checkpointing=recomputes
)
base, hardware = resolve_base(DEFAULT_BASE, RegistrySettings()), detect(settings)
tokenizer = load_tokenizer(base)
model = load_base(base, settings, hardware)
draw = random.Random(0)
encoded = []
for row in range(rows * steps):
    size = length - row % 2  # padded, as rows are
    ids = tuple(draw.randrange(10, 49000) for _ in range(size))
    encoded.append(Encoded(ids, (-100,) * (size - trained) + ids[-trained:]))
done = train_adapter(model, tokenizer, encoded, settings, hardware)
assert done.steps == steps
print(json.dumps({"imports": imports, "peak": resident("VmHWM")}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("recomputes", [True], ids=["recomputed"])
def test_the_peak_of_a_run(embedded_base: Base, recomputes: bool) -> None:
    arguments = json.dumps([ROWS, LENGTH, TRAINED, STEPS, recomputes])
    done = subprocess.run(
        [sys.executable, "-c", CHILD, arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r"^\{.*\}$", done.stdout, re.MULTILINE)
    assert found, done.stdout
    measured = json.loads(found[0])

    settings = TrainSettings(batch_size=ROWS, max_length=LENGTH, gradient_checkpointing=recomputes)
    planned = training_memory(
        Architecture.of(read_config(DEFAULT_BASE, RegistrySettings())),
        Workload.of(settings, dtype="float32", device="cpu", trained=TRAINED + 1),
    )
    # The program itself is a constant, so it is not let into the ten per cent.
    added = measured["peak"] - measured["imports"]
    assert planned.total - measured["imports"] == pytest.approx(added, rel=0.1), measured
