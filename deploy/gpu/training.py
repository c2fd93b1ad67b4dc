"""Lorikeet's own training on the embedded base, and what the planner says of its memory."""

import random
from pathlib import Path

from deploy.gpu.row import Figures, NotMet

EXAMPLE = Path(__file__).parents[2] / "train" / "examples" / "opl"
TRAINED = "gpu-check"
"""The adapter of the run on the NF4 base, which is then served."""

_STEPS = 40
_FALLS_TO = 0.5
_ROWS, _LENGTH, _PEAK_STEPS = 8, 1024, 3
_TOLERANCE = 0.2
"""By how much the measured peak may differ from the planned one."""
_GIB = 1024**3


def unquantised() -> Figures:
    """A run on the base in bfloat16."""
    return _train("none", f"{TRAINED}-bf16")


def nf4() -> Figures:
    """A run on the base in NF4; its adapter is published."""
    return _train("nf4", TRAINED)


def _train(quantization: str, name: str) -> Figures:
    import torch

    from train.run import TrainRequest, run
    from train.settings import TrainSettings

    settings = TrainSettings.model_validate(
        {
            "quantization": quantization,
            "max_steps": _STEPS,
            "epochs": 100,
            "max_eval_rows": 8,
            "baselines": False,
        }
    )
    torch.cuda.reset_peak_memory_stats()
    result = run(
        TrainRequest(
            EXAMPLE / "train.jsonl", name, settings=settings, eval_data=EXAMPLE / "heldout.jsonl"
        )
    )
    record = result.training
    figures = {
        "dtype": record["dtype"],
        "tokens/s": float(record["tokens_per_second"]),
        "first loss": float(record["first_loss"]),
        "last loss": float(record["last_loss"]),
        "GiB at the peak": torch.cuda.max_memory_allocated() / _GIB,
    }
    if not record["last_loss"] < _FALLS_TO * record["first_loss"]:
        raise NotMet(f"the loss has not fallen to {_FALLS_TO} of the first", figures)
    return figures


def peak() -> Figures:
    """A QLoRA run on rows of full length: the memory of its tensors, planned and measured."""
    import torch

    from registry import DEFAULT_BASE, RegistrySettings, resolve_base
    from train.base_model import load_base, load_tokenizer
    from train.data.masking import Encoded
    from train.hardware import detect
    from train.planner.architecture import Architecture
    from train.planner.memory import Workload, training_memory
    from train.settings import TrainSettings
    from train.trainer import train_adapter

    settings = TrainSettings(batch_size=_ROWS, max_length=_LENGTH, max_steps=_PEAK_STEPS)
    hardware = detect(settings)
    base = resolve_base(DEFAULT_BASE, RegistrySettings())
    draw = random.Random(0)
    rows = []
    for _ in range(_ROWS * _PEAK_STEPS):
        ids = tuple(draw.randrange(10, base.config["vocab_size"]) for _ in range(_LENGTH))
        rows.append(Encoded(ids, ids))
    planned = training_memory(
        Architecture.of(base.config),
        Workload.of(settings, dtype=hardware.dtype, device="cuda"),
    ).peak
    torch.cuda.reset_peak_memory_stats()
    train_adapter(
        load_base(base, settings, hardware), load_tokenizer(base), rows, settings, hardware
    )
    measured = torch.cuda.max_memory_allocated()
    figures = {
        "planned GiB": planned / _GIB,
        "measured GiB": measured / _GIB,
        "planned / measured": planned / measured,
    }
    if abs(planned / measured - 1) > _TOLERANCE:
        raise NotMet(f"they differ by more than {_TOLERANCE:.0%}", figures)
    return figures
