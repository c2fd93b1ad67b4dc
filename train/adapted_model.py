"""A published adapter on its base in memory, by PEFT: the model as it was trained."""

from pathlib import Path
from typing import Any

from registry import Base
from train.base_model import load_base
from train.hardware import Hardware
from train.libraries import library_errors
from train.settings import TrainSettings


def load_adapted(base: Base, adapter: Path, settings: TrainSettings, hardware: Hardware) -> Any:
    """The base, quantised as the settings say, with the adapter in folder `adapter`: a PeftModel.

    The adapter's weights are float32, as they were trained. Raises TrainingFailed or OutOfMemory.
    """
    model = load_base(base, settings, hardware)
    with library_errors(f"loading the adapter in {adapter.name}"):
        from peft import PeftModel

        adapted = PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=True)
        adapted.eval()
        return adapted
