"""The frozen base in memory: its tokenizer, where it stops, its weights quantised as set."""

from typing import Any

from registry import Base
from train.errors import BaseNotTrainable
from train.hardware import Hardware
from train.libraries import library_errors, quiet_libraries
from train.processes import Processes, launched
from train.settings import TrainSettings


def load_tokenizer(base: Base) -> Any:
    """The base's tokenizer; its pad token is the one it has, or its stop token."""
    from transformers import AutoTokenizer

    quiet_libraries()
    with library_errors(f"loading the tokenizer of {base.id}"):
        tokenizer = AutoTokenizer.from_pretrained(base.path)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        if tokenizer.pad_token_id is None:
            raise BaseNotTrainable(
                f"the tokenizer of {base.id} has neither a pad token nor a stop token",
                remedy="set eos_token in its tokenizer_config.json",
            )
        return tokenizer


def stop_ids(base: Base) -> tuple[int, ...]:
    """The ids at which generation stops, as the base's generation config has them."""
    from transformers import GenerationConfig

    if not (base.path / "generation_config.json").is_file():
        return ()
    with library_errors(f"reading the generation config of {base.id}"):
        ids = GenerationConfig.from_pretrained(base.path).eos_token_id
    if ids is None:
        return ()
    return tuple(ids) if isinstance(ids, list) else (int(ids),)


def load_base(base: Base, settings: TrainSettings, hardware: Hardware) -> Any:
    """The base model on its device, quantised as the settings say, ready to be adapted."""
    import torch
    from transformers import AutoModelForCausalLM

    quiet_libraries()
    torch.set_num_threads(hardware.threads)
    processes = launched()
    with library_errors(f"loading {base.id}"):
        model = AutoModelForCausalLM.from_pretrained(
            base.path,
            dtype=hardware.torch_dtype,
            quantization_config=_quantization(settings, hardware, processes),
            device_map=_places(hardware, processes),
        )
        for module in model.modules():
            # bitsandbytes repacks 4-bit layers for inference on a CPU with AVX-512 BF16 and then
            # computes in bfloat16: other numbers than in training, and than on another CPU.
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
        return model


def _places(hardware: Hardware, processes: Processes) -> dict[str, str | int] | None:
    """Where the weights go: all on one device; None where FSDP shares them out."""
    if processes.sharded:
        return None
    return {"": "cpu" if hardware.device == "cpu" else processes.local_index}


def _quantization(settings: TrainSettings, hardware: Hardware, processes: Processes) -> Any:
    from transformers import BitsAndBytesConfig

    if settings.quantization == "nf4":
        # FSDP flattens a layer's weights into one tensor: the packed 4-bit ones have to look like
        # the others (S. Mangrulkar et al., "You can now train a 70b language model at home", 2024).
        storage = {"bnb_4bit_quant_storage": hardware.torch_dtype} if processes.sharded else {}
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=hardware.torch_dtype,
            **storage,
        )
    if settings.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return None
