"""The planner's bytes of weights against those that bitsandbytes really makes, on the CPU."""

from pathlib import Path
from typing import Any

import pytest
from model_configs import TINY

from train.planner.architecture import Architecture, Linear
from train.planner.weights import WeightFormat, int8_bytes, nf4_bytes

SHAPES = [(576, 576), (192, 576), (1536, 576), (576, 1536), (1, 64), (4096, 1024), (33, 7)]


def held(parameter: Any) -> int:
    """Bytes of a 4-bit weight and everything that belongs to it."""
    state = parameter.quant_state
    tensors = [parameter.data, state.absmax, state.code]
    if state.nested:
        tensors += [state.state2.absmax, state.state2.code, state.offset]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("double", [True, False])
def test_nf4_is_what_bitsandbytes_holds(shape: tuple[int, int], double: bool) -> None:
    import bitsandbytes
    import torch

    outputs, inputs = shape
    layer = bitsandbytes.nn.Linear4bit(
        inputs, outputs, bias=False, quant_type="nf4", compress_statistics=double
    )
    layer.weight.data.copy_(torch.randn(outputs, inputs))
    layer.to("cpu")
    assert layer.weight.quant_state.nested is double
    assert nf4_bytes(outputs * inputs, double=double) == pytest.approx(held(layer.weight), rel=0.1)


def test_int8_is_what_bitsandbytes_holds() -> None:
    import bitsandbytes
    import torch

    layer = bitsandbytes.nn.Linear8bitLt(576, 1536, bias=False, has_fp16_weights=False)
    layer.weight.data.copy_(torch.randn(1536, 576))
    layer.to("cpu")
    scales = layer.weight.SCB
    real = layer.weight.numel() * layer.weight.element_size() + 4 * scales.numel()
    assert layer.weight.dtype == torch.int8
    assert int8_bytes(Linear("up_proj", 1536, 576)) == real


def load_nf4(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    return AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
        ),
        device_map={"": "cpu"},
    )


@pytest.mark.parametrize("name", ["llama, biases", "qwen2_moe"])
def test_a_whole_model_in_nf4(name: str, tmp_path: Path) -> None:
    """Linear layers are quantised; embeddings, norms, the head and fused experts are not."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = TINY[name]
    fields = {key: value for key, value in config.items() if key != "model_type"}
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(config["model_type"], **fields))
    made.save_pretrained(tmp_path)
    real = 0
    for weight in load_nf4(tmp_path).parameters():
        packed = weight.dtype == torch.uint8
        real += held(weight) if packed else weight.numel() * weight.element_size()
    planned = WeightFormat(4, "nf4").total(Architecture.of(config))
    assert planned == pytest.approx(real, rel=0.01)
