"""The corpus of broken adapters: each kind with the code of its problem and how to make it."""

import os
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from adapter_edit import PREFIX, Edit

Breaker = Callable[[Edit], object]
"""Breaks the adapter that it is given the `Edit` of."""


def _nan(values: Any) -> Any:
    values = values.copy()
    values.flat[3] = np.nan
    return values


def _inf(values: Any) -> Any:
    values = values.copy()
    values.flat[3] = -np.inf
    return values


BROKEN: list[tuple[str, str, Breaker]] = [
    # the config
    ("config missing", "config-missing", lambda e: (e.folder / "adapter_config.json").unlink()),
    ("config not JSON", "config-json", lambda e: e.raw_config(b"{'r': 8}")),
    ("config empty", "config-json", lambda e: e.raw_config(b"")),
    ("config binary", "config-json", lambda e: e.raw_config(b"\xff\xfe\x00\xd8")),
    ("config a list", "config-json", lambda e: e.raw_config(b"[1, 2]")),
    ("config bottomless", "config-json", lambda e: e.raw_config(b"[" * 100_000)),
    ("config huge", "config-json", lambda e: e.raw_config(b" " * (4 << 20) + b"{}")),
    ("config in UTF-16", "config-json", lambda e: e.raw_config('{"r": 8}'.encode("utf-16"))),
    ("prefix tuning", "config-peft-type", lambda e: e.config(peft_type="PREFIX_TUNING")),
    ("no peft_type", "config-peft-type", lambda e: e.config(peft_type=...)),
    ("rank absent", "config-rank", lambda e: e.config(r=...)),
    ("rank zero", "config-rank", lambda e: e.config(r=0)),
    ("rank negative", "config-rank", lambda e: e.config(r=-8)),
    ("rank a word", "config-rank", lambda e: e.config(r="8")),
    ("rank a fraction", "config-rank", lambda e: e.config(r=8.5)),
    ("rank true", "config-rank", lambda e: e.config(r=True)),
    ("rank above the limit", "config-rank-limit", lambda e: e.config(r=17)),
    ("rank astronomic", "config-rank-limit", lambda e: e.config(r=10**400)),
    ("rank not the weights'", "weights-rank", lambda e: e.config(r=4)),
    (
        "rank_pattern above the limit",
        "config-rank-limit",
        lambda e: e.config(rank_pattern={"q_proj": 128}),
    ),
    ("rank_pattern zero", "config-rank", lambda e: e.config(rank_pattern={"q_proj": 0})),
    (
        "rank_pattern not the weights'",
        "weights-rank",
        lambda e: e.config(rank_pattern={"q_proj": 4}),
    ),
    ("rank_pattern a list", "config-pattern", lambda e: e.config(rank_pattern=["q_proj"])),
    ("rank_pattern a regex", "config-pattern", lambda e: e.config(rank_pattern={"(a+)+b": 8})),
    (
        "rank_pattern endless",
        "config-pattern",
        lambda e: e.config(rank_pattern={f"m{i}": 8 for i in range(2049)}),
    ),
    ("alpha absent", "config-alpha", lambda e: e.config(lora_alpha=...)),
    ("alpha a word", "config-alpha", lambda e: e.config(lora_alpha="16")),
    ("alpha NaN", "config-alpha", lambda e: e.config(lora_alpha=float("nan"))),
    ("alpha infinite", "config-alpha", lambda e: e.config(lora_alpha=float("inf"))),
    ("alpha zero", "config-alpha", lambda e: e.config(lora_alpha=0)),
    ("alpha negative", "config-alpha", lambda e: e.config(lora_alpha=-16)),
    ("alpha astronomic", "config-alpha", lambda e: e.config(lora_alpha=10**400)),
    (
        "alpha_pattern NaN",
        "config-alpha",
        lambda e: e.config(alpha_pattern={"q_proj": float("nan")}),
    ),
    ("scaling absurd", "config-scaling", lambda e: e.config(lora_alpha=9000)),
    (
        "scaling absurd by pattern",
        "config-scaling",
        lambda e: e.config(alpha_pattern={"q_proj": 1e6}),
    ),
    ("targets absent", "config-targets", lambda e: e.config(target_modules=...)),
    ("targets numbers", "config-type", lambda e: e.config(target_modules=[1])),
    (
        "targets not the weights'",
        "weights-untargeted",
        lambda e: e.config(target_modules=["k_proj"]),
    ),
    ("DoRA", "config-dora", lambda e: e.config(use_dora=True)),
    ("bias", "config-bias", lambda e: e.config(bias="lora_only")),
    ("lora_bias", "config-bias", lambda e: e.config(lora_bias=True)),
    ("modules_to_save", "config-modules-to-save", lambda e: e.config(modules_to_save=["lm_head"])),
    (
        "trainable tokens",
        "config-trainable-tokens",
        lambda e: e.config(trainable_token_indices=[5]),
    ),
    ("PiSSA", "config-init", lambda e: e.config(init_lora_weights="pissa_niter_4")),
    ("OLoRA", "config-init", lambda e: e.config(init_lora_weights="olora")),
    ("CorDA", "config-init", lambda e: e.config(init_lora_weights="corda")),
    ("LoftQ", "config-init", lambda e: e.config(init_lora_weights="loftq")),
    ("init a number", "config-type", lambda e: e.config(init_lora_weights=3)),
    (
        "layer_replication",
        "config-layer-replication",
        lambda e: e.config(layer_replication=[[0, 2]]),
    ),
    ("aLoRA", "config-alora", lambda e: e.config(alora_invocation_tokens=[1, 2])),
    ("target_parameters", "config-target-parameters", lambda e: e.config(target_parameters=["w"])),
    ("QALoRA", "config-qalora", lambda e: e.config(use_qalora=True)),
    ("rslora a word", "config-type", lambda e: e.config(use_rslora="yes")),
    ("classifier", "config-task", lambda e: e.config(task_type="SEQ_CLS")),
    # the weights' file
    (
        "weights missing",
        "weights-missing",
        lambda e: (e.folder / "adapter_model.safetensors").unlink(),
    ),
    ("weights a pickle", "weights-pickle", lambda e: e.pickle("adapter_model.bin")),
    ("weights a renamed pickle", "weights-pickle", lambda e: e.pickle("adapter_model.safetensors")),
    (
        "weights a renamed zip",
        "weights-pickle",
        lambda e: e.raw_weights(b"PK\x03\x04" + bytes(100)),
    ),
    ("weights empty", "weights-empty", lambda e: e.raw_weights(b"")),
    (
        "weights without tensors",
        "weights-empty",
        lambda e: e.raw_weights(struct.pack("<Q", 2) + b"{}"),
    ),
    ("weights truncated", "weights-truncated", lambda e: e.raw_weights(lambda c: c[:-100])),
    ("weights cut in the header", "weights-truncated", lambda e: e.raw_weights(lambda c: c[:100])),
    (
        "weights followed by more",
        "weights-trailing",
        lambda e: e.raw_weights(lambda c: c + b"more"),
    ),
    (
        "header oversize",
        "weights-header-size",
        lambda e: e.raw_weights(struct.pack("<Q", 17 << 20) + bytes(64)),
    ),
    ("header not JSON", "weights-header", lambda e: e.raw_weights(lambda c: c[:8] + b"!" + c[9:])),
    ("header in UTF-16", "weights-header", lambda e: e.header(lambda h: h.encode("utf-16-le"))),
    ("header with NaN", "weights-header", lambda e: e.metadata('{"a": NaN}')),
    ("metadata a number", "weights-header", lambda e: e.metadata("5")),
    ("metadata of numbers", "weights-header", lambda e: e.metadata('{"epoch": 5}')),
    ("metadata not Unicode", "weights-header", lambda e: e.metadata(r'{"a": "\ud800"}')),
    ("weights a link", "file-symlink", lambda e: e.link("adapter_model.safetensors")),
    ("config a link", "file-symlink", lambda e: e.link("adapter_config.json")),
    ("weights a pipe", "file-special", lambda e: e.pipe("adapter_model.safetensors")),
    ("config a pipe", "file-special", lambda e: e.pipe("adapter_config.json")),
    ("weights above the limit", "size-limit", lambda e: e.raw_weights(bytes((8 << 20) + 1))),
    (
        "a tokenizer of 65 MiB beside it",
        "size-limit",
        lambda e: os.truncate(e.touch("tokenizer.json"), 65 << 20),
    ),
    # the tensors
    ("int8", "weights-dtype", lambda e: e.tensors(A0=lambda v: v.astype(np.int8))),
    ("all int32", "weights-dtype", lambda e: e.every("A", lambda v: v.astype(np.int32))),
    ("NaN", "weights-not-finite", lambda e: e.tensors(A0=_nan)),
    ("infinite", "weights-not-finite", lambda e: e.tensors(B0=_inf)),
    (
        "float16 NaN",
        "weights-not-finite",
        lambda e: e.tensors(A0=lambda v: _nan(v.astype(np.float16))),
    ),
    (
        "float64 infinite",
        "weights-not-finite",
        lambda e: e.tensors(A0=lambda v: _inf(v.astype(np.float64))),
    ),
    ("bfloat16 NaN", "weights-not-finite", lambda e: e.bfloat16(0x7FC1)),
    ("bfloat16 infinite", "weights-not-finite", lambda e: e.bfloat16(0xFF80)),
    ("absurdly large", "weights-too-large", lambda e: e.tensors(A0=lambda v: v * 1e30)),
    (
        "beyond float32",
        "weights-too-large",
        lambda e: e.tensors(A0=lambda v: v.astype(np.float64) * 1e300),
    ),
    ("A absent", "weights-half", lambda e: e.tensors(A0=None)),
    ("B absent", "weights-half", lambda e: e.tensors(B0=None)),
    ("B absent everywhere", "weights-half", lambda e: e.rename("lora_B", "lora_A.x")),
    ("adapter's name inside", "weights-name", lambda e: e.rename(".weight", ".default.weight")),
    ("no prefix", "weights-name", lambda e: e.rename("base_model.model.", "")),
    ("bias tensor", "weights-name", lambda e: e.add(f"{PREFIX}.lora_B.bias", 64)),
    (
        "DoRA magnitudes",
        "weights-dora",
        lambda e: e.add(f"{PREFIX}.lora_magnitude_vector", 64),
    ),
    ("layer 7 of 2", "base-layer", lambda e: e.rename("layers.1.", "layers.7.")),
    ("layer astronomic", "base-layer", lambda e: e.rename("layers.1.", f"layers.{10**30}.")),
    ("another architecture", "base-module", lambda e: e.rename("self_attn.q_proj", "attn.c_attn")),
    ("a norm", "base-module", lambda e: e.rename("self_attn.q_proj", "input_layernorm")),
    (
        "output head",
        "weights-output-head",
        lambda e: e.add("base_model.model.lm_head.lora_A.weight", 8, 64),
    ),
    (
        "embeddings",
        "weights-embedding",
        lambda e: e.add("base_model.model.model.embed_tokens.lora_embedding_A", 8, 99),
    ),
    (
        "resized vocabulary",
        "weights-vocabulary",
        lambda e: e.add("base_model.model.model.embed_tokens.weight", 49160, 8),
    ),
    ("A too narrow", "base-shape", lambda e: e.tensors(A0=lambda v: v[:, :32])),
    ("A too wide", "base-shape", lambda e: e.tensors(A0=lambda v: np.tile(v, 2))),
    ("B too short", "base-shape", lambda e: e.tensors(B0=lambda v: v[:32])),
    ("B too long", "base-shape", lambda e: e.tensors(B0=lambda v: np.tile(v, (2, 1)))),
    ("A and B swapped", "weights-rank", lambda e: e.tensors(A0=lambda v: v.T, B0=lambda v: v.T)),
    ("A flat", "weights-rank", lambda e: e.tensors(A0=lambda v: v.ravel())),
    ("A a scalar", "weights-rank", lambda e: e.tensors(A0=np.array(1.0, np.float32))),
    ("A of three dimensions", "weights-rank", lambda e: e.tensors(A0=lambda v: v[:, :, None])),
    ("A of no rows", "weights-empty", lambda e: e.tensors(A0=lambda v: v[:0])),
    ("one rank too high", "weights-rank", lambda e: e.tensors(A0=lambda v: np.tile(v, (2, 1)))),
    ("made for another base", "base-other", lambda e: e.manifest("another", "sha256:" + "1" * 64)),
]
