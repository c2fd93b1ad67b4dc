"""The planner's shapes against transformers' own models, made on torch's meta device."""

from typing import Any

import pytest
from model_configs import LLAMA, MISTRAL, MIXTRAL, QWEN_MOE, TINY

from registry import UnknownBase
from train.planner.architecture import Architecture
from train.planner.families import FAMILIES

WHOLE = {"Mistral-7B-v0.2": MISTRAL, "Llama-2-7b": LLAMA, "Mixtral": MIXTRAL, "Qwen-MoE": QWEN_MOE}


def on_meta(config: dict[str, Any]) -> Any:
    """transformers' model of `config`, without memory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            AutoConfig.for_model(config["model_type"], **fields)
        )


@pytest.mark.parametrize("name", [*TINY, *WHOLE])
def test_parameters_are_those_of_transformers(name: str) -> None:
    import torch

    config = {**TINY, **WHOLE}[name]
    model, architecture = on_meta(config), Architecture.of(config)
    assert architecture.parameters == sum(weight.numel() for weight in model.parameters())
    layers = [sum(weight.numel() for weight in layer.parameters()) for layer in model.model.layers]
    assert [layer.parameters for layer in architecture.layers] == layers
    head = model.get_output_embeddings()
    linears = {
        module_name: (module.out_features, module.in_features, module.bias is not None)
        for module_name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    ours = {
        f"model.layers.{index}.{linear.name}": (linear.outputs, linear.inputs, linear.bias)
        for index, layer in enumerate(architecture.layers)
        for linear in layer.linears
    }
    assert ours == linears


@pytest.mark.parametrize("name", TINY)
def test_windows_are_those_of_transformers(name: str) -> None:
    config = on_meta(TINY[name]).config
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    if kinds is None:
        kinds = ["sliding_attention" if window else "full_attention"] * config.num_hidden_layers
    expected = [window if kind == "sliding_attention" else None for kind in kinds]
    assert [layer.window for layer in Architecture.of(TINY[name]).layers] == expected


def test_every_family_is_compared() -> None:
    assert {config["model_type"] for config in TINY.values()} == set(FAMILIES)


def test_known_sizes() -> None:
    assert Architecture.of(MISTRAL).parameters == 7_241_732_096
    assert Architecture.of(LLAMA).parameters == 6_738_415_616
    mixtral = Architecture.of(MIXTRAL)
    assert mixtral.parameters == 46_702_792_704
    assert mixtral.active_parameters == pytest.approx(12.9e9, rel=0.01)  # as its authors say
    assert Architecture.of(QWEN_MOE).parameters == pytest.approx(14.3e9, rel=0.01)
    assert Architecture.of(QWEN_MOE).active_parameters == pytest.approx(2.7e9, rel=0.01)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "mamba"}, "does not cover models of type mamba"),
        ({"model_type": None}, "does not cover"),
        ({"num_attention_heads": 0}, "shape"),
        ({"hidden_size": "wide"}, "shape"),
        ({"num_hidden_layers": -1}, "positive"),
        ({"vocab_size": None}, "shape"),
    ],
)
def test_a_config_that_is_not_covered_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UnknownBase, match=said) as error:
        Architecture.of({**MISTRAL, **change})
    assert error.value.remedy
