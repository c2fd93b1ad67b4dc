"""The models that a served adapter is compared with: as trained, as served, merged."""

import gc
from pathlib import Path
from typing import Any

from registry import Base
from train.adapted_model import load_adapted
from train.base_model import load_base
from train.errors import BaseNotTrainable
from train.hardware import Hardware
from train.libraries import library_errors
from train.settings import TrainSettings


def load_as_served(
    base: Base,
    adapter: Path,
    settings: TrainSettings,
    hardware: Hardware,
    *,
    dtype: str,
    quantization: str,
) -> Any:
    """The adapter on the base that a server holds: a PeftModel with weights rounded to `dtype`.

    It computes in the dtype of `hardware` (`Hardware.for_weights`), which on a CPU is float32: the
    rounding errors of the arithmetic are then the server's alone.
    """
    settings = settings.model_copy(update={"quantization": quantization})
    model = load_adapted(base, adapter, settings, hardware)
    round_weights(model, dtype)
    return model


def load_merged(
    base: Base, adapter: Path, settings: TrainSettings, hardware: Hardware, *, dtype: str
) -> Any:
    """The adapter added into the weights it was trained on: the base, de-quantised, in `dtype`.

    A quantised base is another model than the one it was made from, and the adapter has learnt to
    work on that one. The weights are rounded to `dtype` and kept in the dtype of `hardware`, so
    that it computes in that. Raises TrainingFailed or OutOfMemory, and BaseNotTrainable for a
    quantisation that cannot be undone.
    """
    model = load_base(base, settings, hardware)
    with library_errors(f"merging the adapter in {adapter.name}"):
        from peft import PeftModel

        if settings.quantization != "none":
            try:
                model = model.dequantize()
            except NotImplementedError as error:
                raise BaseNotTrainable(
                    f"a base in {settings.quantization} cannot be de-quantised here",
                    remedy="export it with --format peft",
                ) from error
            model = model.to(hardware.torch_dtype)
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=True)
        merged.eval()
        round_weights(merged, dtype)
        return merged


def round_weights(model: Any, dtype: str) -> None:
    """Give every floating-point weight a value that `dtype` has; packed ones stay."""
    import torch

    rounded = getattr(torch, dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.copy_(parameter.to(rounded))


def free_memory() -> None:
    """Give back what a model took that nobody refers to any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
