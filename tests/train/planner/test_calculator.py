"""Hugging Face's calculator, to the last printed digit of the source material's figures."""

from typing import Any

import pytest
from model_configs import LLAMA, MISTRAL, MIXTRAL, QWEN_MOE

from train.planner.architecture import Architecture
from train.planner.calculator import Calculator, as_printed


def printed(config: dict[str, Any], *, rope_caches: bool) -> dict[str, tuple[str, ...]]:
    rows = Calculator(Architecture.of(config), rope_caches).inference()
    return {
        row.dtype: tuple(map(as_printed, (row.largest_layer, row.total, row.adam))) for row in rows
    }


def training(config: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    rows = Calculator(Architecture.of(config), True).training()
    return {
        row.dtype: tuple(map(as_printed, (row.model, row.gradients, row.backward, row.step)))
        for row in rows
    }


def test_the_figures_of_the_source_material() -> None:
    mistral, llama = printed(MISTRAL, rope_caches=True), printed(LLAMA, rope_caches=True)
    assert mistral["float16/bfloat16"] == ("432.02 MB", "13.74 GB", "54.98 GB")
    assert llama["float16/bfloat16"] == ("388.02 MB", "12.37 GB", "49.48 GB")
    assert mistral["float32"] == ("864.03 MB", "27.49 GB", "109.96 GB")
    assert llama["float32"] == ("776.03 MB", "24.74 GB", "98.96 GB")


def test_its_figures_of_a_step() -> None:
    assert training(MISTRAL) == {
        "float32": ("27.49 GB", "27.49 GB", "54.98 GB", "109.96 GB"),
        "float16/bfloat16": ("27.49 GB", "41.23 GB", "54.98 GB", "54.98 GB"),
    }
    assert training(LLAMA)["float32"][-1] == "98.96 GB"


def test_the_figures_of_today() -> None:
    mistral, llama = printed(MISTRAL, rope_caches=False), printed(LLAMA, rope_caches=False)
    assert mistral["float16/bfloat16"] == ("416.02 MB", "13.24 GB", "52.98 GB")
    assert llama["float16/bfloat16"] == ("386.02 MB", "12.31 GB", "49.23 GB")


@pytest.mark.parametrize("config", [MISTRAL, LLAMA, MIXTRAL, QWEN_MOE])
def test_today_is_what_accelerate_prints(config: dict[str, Any]) -> None:
    import torch
    from accelerate.utils import calculate_maximum_sizes, convert_bytes
    from transformers import AutoConfig, AutoModel

    fields = {key: value for key, value in config.items() if key != "model_type"}
    fields["torch_dtype"] = "float32"
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model(config["model_type"], **fields))
    total, (largest, _) = calculate_maximum_sizes(model)
    ours = Calculator(Architecture.of(config), False)
    assert as_printed(ours.total) == convert_bytes(total)
    assert as_printed(ours.largest_layer) == convert_bytes(largest)


@pytest.mark.parametrize(
    "size", [0, 1, 1023, 1024, 1024**2 * 1.005, 1024**3 * 27.4889, 5 * 1024**4]
)
def test_sizes_are_printed_as_accelerate_does(size: float) -> None:
    from accelerate.utils import convert_bytes

    assert as_printed(size) == convert_bytes(size)
