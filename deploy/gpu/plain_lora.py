"""PEFT trains an adapter of a tiny random Llama: torch, peft and transformers, none of ours.

On a GPU in bfloat16; without one on the CPU, in float32.
"""

from typing import Any

from deploy.gpu.row import Figures, NotMet

_STEPS, _ROWS, _LENGTH, _VOCABULARY = 30, 8, 32, 512
_FALLS_TO = 0.5
"""Of the first loss: an adapter that learns gets far below."""


def unquantised() -> Figures:
    """The base as it is."""
    return _train(None)


def nf4() -> Figures:
    """The base in NF4 with double quantisation."""
    import torch
    from transformers import BitsAndBytesConfig

    compute = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    return _train(
        BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
        )
    )


def _train(quantization: Any) -> Figures:
    import torch
    from peft import LoraConfig, get_peft_model

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(0)
    model = get_peft_model(
        _base(quantization, device, dtype),
        LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"),
    )
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in weights:
        weight.data = weight.data.float()
    optimizer = torch.optim.AdamW(weights, lr=0.01)
    tokens = torch.randint(0, _VOCABULARY, (_ROWS, _LENGTH), device=device)
    losses = []
    for _ in range(_STEPS):
        with torch.autocast(device, dtype, enabled=device == "cuda"):
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    figures: dict[str, float | int | str] = {
        "device": device,
        "dtype": str(dtype).removeprefix("torch."),
        "first loss": losses[0],
        "last loss": losses[-1],
    }
    if not losses[-1] < _FALLS_TO * losses[0]:
        raise NotMet(f"the loss has not fallen to {_FALLS_TO} of the first", figures)
    return figures


def _base(quantization: Any, device: str, dtype: Any) -> Any:
    """A tiny Llama: random, but one that is read from a file, as quantisation needs it."""
    import tempfile

    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=_VOCABULARY,
        initializer_range=0.2,  # a frozen head of smaller weights could say nothing clearly
    )
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        LlamaForCausalLM(config).save_pretrained(folder)
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, quantization_config=quantization, device_map={"": device}
        )
