"""`adapter_model.safetensors`: halves in pairs, of the ranks and types that the engine takes."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from registry.adapter_config import AdapterConfig
from registry.adapter_folder import WEIGHTS_FILE
from registry.problem import Problem
from registry.tensor_header import FLOAT_TYPES, BadHeader, Tensor, read_header

MAX_HEADER_BYTES = 16 << 20
SHOWN = 3
"""How many names a message lists before it says how many more there are."""

_PREFIX = "base_model.model."
_HALF = re.compile(r"base_model\.model\.(?P<module>[\w.]+)\.lora_(?P<half>[AB])\.weight")
_HEADS = re.compile(r"(^|\.)(lm_head|embed_out|output_layer)(\.|$)")
_EMBEDDINGS = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|tok_embeddings)(\.|$)")
_SAVE = "save the adapter again: model.save_pretrained(folder)"


@dataclass(slots=True)
class Weights:
    """The two halves of each adapted module, by the module's name in the base."""

    a: dict[str, Tensor] = field(default_factory=dict)
    b: dict[str, Tensor] = field(default_factory=dict)

    @property
    def modules(self) -> list[str]:
        """Names of every module that has at least one half, in order."""
        return sorted(self.a.keys() | self.b.keys())

    @property
    def targets(self) -> tuple[str, ...]:
        """The kinds of modules that are adapted, in order: ("down_proj", "q_proj")."""
        return tuple(sorted({module.rpartition(".")[2] for module in self.modules}))

    @property
    def tensors(self) -> list[Tensor]:
        """All halves, in the order of the file."""
        return sorted([*self.a.values(), *self.b.values()], key=lambda tensor: tensor.begin)


def read_weights(folder: Path) -> tuple[Weights | None, list[Problem]]:
    """The adapter's tensors, from the header alone, and what is wrong with their names and types.

    None where the file is no safetensors file.
    """
    path = folder / WEIGHTS_FILE
    try:
        tensors = read_header(path, max_header_bytes=MAX_HEADER_BYTES)
    except BadHeader as error:
        return None, [_bad_file(path, error)]
    if not tensors:
        return None, [Problem("weights-empty", f"{WEIGHTS_FILE} holds no tensors", _SAVE)]
    weights, strangers = Weights(), []
    for name, tensor in tensors.items():
        match = _HALF.fullmatch(name)
        if match is None or _HEADS.search(match["module"]) or _EMBEDDINGS.search(match["module"]):
            strangers.append(name)
        else:
            halves = weights.a if match["half"] == "A" else weights.b
            halves[match["module"]] = tensor
    problems = [*_strangers(strangers), *_types(weights), *_pairs(weights)]
    return weights, problems


def check_ranks(weights: Weights, config: AdapterConfig) -> Iterator[Problem]:
    """Each half has the rank that the config gives its module, and the config means the module."""
    wrong, untargeted = [], []
    for module in weights.modules:
        rank = config.rank_of(module)
        for half, tensor in (("A", weights.a.get(module)), ("B", weights.b.get(module))):
            if tensor is None:
                continue
            at = 0 if half == "A" else 1
            if len(tensor.shape) != 2 or tensor.shape[at] != rank:
                wrong.append(f"{module} {half} is {list(tensor.shape)}, its rank {rank}")
        if not config.targets_module(module):
            untargeted.append(module)
    if wrong:
        yield Problem(
            "weights-rank",
            f"{WEIGHTS_FILE}: not the rank of the config: {some(wrong)}",
            "config and weights are of different adapters: save both again together",
        )
    if untargeted:
        yield Problem(
            "weights-untargeted",
            f"{WEIGHTS_FILE}: modules that target_modules does not name: {some(untargeted)}",
            "config and weights are of different adapters: save both again together",
        )


def some(items: list[str]) -> str:
    """The first few items and how many more there are."""
    shown = ", ".join(item if len(item) <= 160 else item[:157] + "..." for item in items[:SHOWN])
    return shown + (f" and {len(items) - SHOWN} more" if len(items) > SHOWN else "")


def _strangers(names: list[str]) -> Iterator[Problem]:
    """Say what kind of tensor each is that is not half of a linear module's LoRA."""
    heads = [name for name in names if _HEADS.search(name)]
    embeddings = [name for name in names if name not in heads and _EMBEDDINGS.search(name)]
    whole = [
        name for name in heads + embeddings if name.endswith(".weight") and ".lora_" not in name
    ]
    if whole:
        yield Problem(
            "weights-vocabulary",
            f"{WEIGHTS_FILE} replaces the vocabulary's weights: {some(whole)}",
            "train without new tokens and save with save_embedding_layers=False",
        )
    if adapted := [name for name in heads if name not in whole]:
        yield Problem(
            "weights-output-head",
            f"{WEIGHTS_FILE}: LoRA on the output head cannot be served: {some(adapted)}",
            "train again without lm_head in target_modules",
        )
    if adapted := [name for name in embeddings if name not in whole]:
        yield Problem(
            "weights-embedding",
            f"{WEIGHTS_FILE}: LoRA on the embeddings cannot be served: {some(adapted)}",
            "train again without embed_tokens in target_modules",
        )
    others = [name for name in names if name not in heads and name not in embeddings]
    if magnitudes := [name for name in others if "lora_magnitude_vector" in name]:
        yield Problem(
            "weights-dora",
            f"{WEIGHTS_FILE} holds DoRA magnitudes: {some(magnitudes)}",
            "train again without use_dora",
        )
    if unknown := [name for name in others if name not in magnitudes]:
        yield Problem(
            "weights-name",
            f"{WEIGHTS_FILE}: not halves of a LoRA: {some(unknown)}",
            f"names look like {_PREFIX}model.layers.0.self_attn.q_proj.lora_A.weight: "
            "save with PEFT's save_pretrained",
        )


def _types(weights: Weights) -> Iterator[Problem]:
    odd = [f"{t.name} ({t.dtype})" for t in weights.tensors if t.dtype not in FLOAT_TYPES]
    if odd:
        yield Problem(
            "weights-dtype",
            f"{WEIGHTS_FILE}: neither 16-, 32- nor 64-bit floating point: {some(odd)}",
            "save the adapter in float32 or bfloat16",
        )


def _pairs(weights: Weights) -> Iterator[Problem]:
    for half, there, other in (("B", weights.a, weights.b), ("A", weights.b, weights.a)):
        if lonely := sorted(there.keys() - other.keys()):
            yield Problem(
                "weights-half",
                f"{WEIGHTS_FILE}: {half} is absent for {some(lonely)}",
                _SAVE,
            )
    empty = [t.name for t in weights.tensors if t.elements == 0]
    if empty:
        yield Problem("weights-empty", f"{WEIGHTS_FILE}: no elements in {some(empty)}", _SAVE)


def _bad_file(path: Path, error: BadHeader) -> Problem:
    with path.open("rb") as file:
        lead = file.read(4)
    archive = lead == b"PK\x03\x04"
    pickle = len(lead) == 4 and lead[0] == 0x80 and lead[1] in range(2, 6) and lead[2] != 0
    if archive or pickle:
        return Problem(
            "weights-pickle",
            f"{WEIGHTS_FILE} is a pickle under another name: it can run code, and is never opened",
            "save the adapter with save_pretrained(folder, safe_serialization=True)",
        )
    return Problem(error.code, f"{WEIGHTS_FILE}: {error}", _SAVE)
