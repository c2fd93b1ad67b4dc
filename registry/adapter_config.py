"""`adapter_config.json`, PEFT's description of an adapter: read, and refused where it is not ours.

Anything that would make the engine compute something else than PEFT trained is an error here.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeGuard

from registry.problem import Problem

CONFIG_FILE = "adapter_config.json"
MAX_CONFIG_BYTES = 4 << 20
MAX_SCALING = 1000.0
MAX_PATTERNS = 2048

_CONVERT = (
    "convert it to a plain LoRA when saving: "
    "save_pretrained(path, path_initial_model_for_weight_conversion=...)"
)
_RETRAIN = "train again without it"

# Settings that, when on, change what the adapter computes beyond W·x + scaling·B·A·x.
_UNSUPPORTED = {
    "use_dora": ("config-dora", "DoRA (use_dora)"),
    "lora_bias": ("config-bias", "a bias beside B (lora_bias)"),
    "modules_to_save": ("config-modules-to-save", "whole modules (modules_to_save)"),
    "trainable_token_indices": ("config-trainable-tokens", "trained tokens"),
    "layer_replication": ("config-layer-replication", "repeated layers (layer_replication)"),
    "alora_invocation_tokens": ("config-alora", "activated LoRA (alora_invocation_tokens)"),
    "target_parameters": ("config-target-parameters", "LoRA on bare parameters"),
    "use_bdlora": ("config-bdlora", "block-diagonal LoRA (use_bdlora)"),
    "use_qalora": ("config-qalora", "QALoRA (use_qalora)"),
    "megatron_config": ("config-megatron", "Megatron layers (megatron_config)"),
    "arrow_config": ("config-arrow", "Arrow routing (arrow_config)"),
    "kasa_config": ("config-kasa", "KaSA (kasa_config)"),
    "monteclora_config": ("config-monteclora", "MonteCLoRA (monteclora_config)"),
}
# Inits that only set where training began; PiSSA, OLoRA, CorDA, LoftQ and others change the base.
_PLAIN_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
_IGNORED = frozenset(
    {
        "task_type",
        "peft_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "r",
        "target_modules",
        "exclude_modules",
        "lora_alpha",
        "lora_dropout",
        "fan_in_fan_out",
        "bias",
        "use_rslora",
        "init_lora_weights",
        "layers_to_transform",
        "layers_pattern",
        "rank_pattern",
        "alpha_pattern",
        "megatron_core",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "velora_config",
        "qalora_group_size",
        "runtime_config",
        "ensure_weight_tying",
    }
)
_PATTERN_KEY = re.compile(r"\^?[\w.]{1,256}")


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What the weights are to be read with.

    `targets` are the names of the adapted modules, None where a pattern chooses them.
    """

    rank: int
    alpha: float
    rslora: bool = False
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    targets: frozenset[str] | None = None
    base_name: str | None = None

    def rank_of(self, module: str) -> int:
        """The rank of `module` ("model.layers.0.self_attn.q_proj"), as PEFT decides it."""
        for key, rank in self.rank_pattern.items():
            if _pattern(key).match(module):
                return rank
        return self.rank

    def targets_module(self, module: str) -> bool:
        """Whether the config means `module` to be adapted."""
        if self.targets is None:
            return True
        names = (module, *(module[i + 1 :] for i, c in enumerate(module) if c == "."))
        return any(name in self.targets for name in names)


@lru_cache(maxsize=MAX_PATTERNS)
def _pattern(key: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({key})$")


def read_config(folder: Path, max_rank: int) -> tuple[AdapterConfig | None, list[Problem]]:
    """The config in `folder` and all that is wrong with it; None where nothing can be read from it.

    `max_rank` is the highest rank that the server takes.
    """
    path = folder / CONFIG_FILE
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            return None, [_bad_json(f"it is larger than {MAX_CONFIG_BYTES >> 20} MiB")]
        values = json.loads(path.read_bytes().decode())  # in UTF-8, as the engine reads it
    except (ValueError, RecursionError) as error:
        return None, [_bad_json(str(error))]
    if not isinstance(values, dict):
        return None, [_bad_json("it holds no JSON object")]
    if values.get("peft_type") != "LORA":
        return None, [
            Problem(
                "config-peft-type",
                f"{CONFIG_FILE}: peft_type is {_show(values.get('peft_type'))}, not 'LORA'",
                "only LoRA adapters are served: train with peft.LoraConfig",
            )
        ]
    problems = [
        *_features(values),
        *_kinds(values),
        *_ranks(values, max_rank),
        *_alphas(values),
        *_targets(values),
    ]
    if any(p.code in ("config-rank", "config-alpha", "config-pattern") for p in problems):
        return None, problems
    targets = values.get("target_modules")
    name = values.get("base_model_name_or_path")
    config = AdapterConfig(
        rank=values["r"],
        alpha=float(values["lora_alpha"]),
        rslora=values.get("use_rslora") is True,
        rank_pattern=dict(values.get("rank_pattern") or {}),
        alpha_pattern=dict(values.get("alpha_pattern") or {}),
        targets=frozenset(targets) if _is_names(targets) else None,
        base_name=name if isinstance(name, str) and name else None,
    )
    if not any(problem.code == "config-rank-limit" for problem in problems):
        problems += _scalings(config)
    return config, problems


def _features(values: dict[str, Any]) -> Iterator[Problem]:
    for key, (code, what) in _UNSUPPORTED.items():
        if values.get(key):
            yield Problem(code, f"{CONFIG_FILE}: {what} cannot be served", _RETRAIN)
    bias = values.get("bias", "none")
    if bias != "none":
        yield Problem(
            "config-bias",
            f"{CONFIG_FILE}: bias is {_show(bias)}; trained biases cannot be served",
            'train again with bias="none"',
        )
    init = values.get("init_lora_weights", True)
    if isinstance(init, str):
        if init.lower() not in _PLAIN_INITS:
            yield Problem(
                "config-init",
                f"{CONFIG_FILE}: init_lora_weights {_show(init)} changes the base's weights",
                _CONVERT,
            )
    elif not isinstance(init, bool):
        yield _wrong_type("init_lora_weights", init, "true, false or a name")


def _kinds(values: dict[str, Any]) -> Iterator[Problem]:
    for key in ("use_rslora", "fan_in_fan_out", "use_dora", "lora_bias", "use_qalora"):
        if values.get(key) is not None and not isinstance(values[key], bool):
            yield _wrong_type(key, values[key], "true or false")
    task = values.get("task_type")
    if task not in (None, "CAUSAL_LM"):
        yield Problem(
            "config-task",
            f"{CONFIG_FILE}: task_type is {_show(task)}; only CAUSAL_LM is served",
            'train with LoraConfig(task_type="CAUSAL_LM")',
        )
    for key in sorted(values.keys() - _IGNORED - _UNSUPPORTED.keys()):
        if values[key]:
            yield Problem(
                "config-unknown-key",
                f"{CONFIG_FILE}: {_show(key)} is not known here and has no effect",
                "check that the adapter does not depend on it",
                "warning",
            )


def _ranks(values: dict[str, Any], max_rank: int) -> Iterator[Problem]:
    ranks = [("r", values.get("r"))]
    pattern = values.get("rank_pattern") or {}
    if not isinstance(pattern, dict):
        yield _wrong_pattern("rank_pattern", pattern)
    else:
        yield from _keys("rank_pattern", pattern)
        ranks += [(f"rank_pattern[{_show(key)}]", rank) for key, rank in pattern.items()]
    for name, rank in ranks:
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            yield Problem(
                "config-rank",
                f"{CONFIG_FILE}: {name} is {_show(rank)}, not a whole number from 1",
                f"train with a rank from 1 to {max_rank}",
            )
        elif rank > max_rank:
            yield Problem(
                "config-rank-limit",
                f"{CONFIG_FILE}: {name} is {_show(rank)}, above the server's limit of {max_rank}",
                f"train with a rank of at most {max_rank}, or raise the limit (--max-lora-rank)",
            )


def _alphas(values: dict[str, Any]) -> Iterator[Problem]:
    alphas = [("lora_alpha", values.get("lora_alpha"))]
    pattern = values.get("alpha_pattern") or {}
    if not isinstance(pattern, dict):
        yield _wrong_pattern("alpha_pattern", pattern)
    else:
        yield from _keys("alpha_pattern", pattern)
        alphas += [(f"alpha_pattern[{_show(key)}]", alpha) for key, alpha in pattern.items()]
    for name, alpha in alphas:
        if not _is_number(alpha) or not 0 < alpha < 1e9:
            yield Problem(
                "config-alpha",
                f"{CONFIG_FILE}: {name} is {_show(alpha)}, not a finite number above 0",
                "train with lora_alpha between 1 and a few times the rank",
            )


def _keys(name: str, pattern: dict[str, Any]) -> Iterator[Problem]:
    """The engine reads these keys as regular expressions: only names are let through."""
    if len(pattern) > MAX_PATTERNS:
        yield Problem(
            "config-pattern",
            f"{CONFIG_FILE}: {name} has {len(pattern)} entries (limit {MAX_PATTERNS})",
            "give one rank and alpha to all modules of a kind",
        )
        return
    for key in pattern:
        if not _PATTERN_KEY.fullmatch(key):
            yield Problem(
                "config-pattern",
                f"{CONFIG_FILE}: {name} has the key {_show(key)}, which is no module's name",
                "name each module in full instead of using a regular expression",
            )


def _targets(values: dict[str, Any]) -> Iterator[Problem]:
    targets = values.get("target_modules")
    if not targets:
        yield Problem(
            "config-targets",
            f"{CONFIG_FILE}: target_modules is missing or empty",
            'list the adapted modules, for one ["q_proj", "v_proj"]',
        )
    elif not isinstance(targets, str) and not _is_names(targets):
        yield _wrong_type("target_modules", targets, "a list of names")
    name = values.get("base_model_name_or_path")
    if name is not None and not isinstance(name, str):
        yield _wrong_type("base_model_name_or_path", name, "a name")


def _scalings(config: AdapterConfig) -> Iterator[Problem]:
    """Scaling is alpha over rank (or its root): every combination that a module may get."""
    ranks = {config.rank, *config.rank_pattern.values()}
    alphas = {config.alpha, *config.alpha_pattern.values()}
    worst = max(alphas) / (math.sqrt(min(ranks)) if config.rslora else min(ranks))
    if worst > MAX_SCALING:
        yield Problem(
            "config-scaling",
            f"{CONFIG_FILE}: alpha over rank gives a scaling of {worst:.4g} "
            f"(limit {MAX_SCALING:g}), which would drown the base",
            "train with lora_alpha between 1 and a few times the rank",
        )


def _bad_json(why: str) -> Problem:
    return Problem(
        "config-json",
        f"{CONFIG_FILE} cannot be read: {why}",
        "save the adapter again: model.save_pretrained(folder)",
    )


def _wrong_type(key: str, value: object, expected: str) -> Problem:
    return Problem(
        "config-type",
        f"{CONFIG_FILE}: {key} is {_show(value)}, not {expected}",
        "save the adapter again with PEFT: model.save_pretrained(folder)",
    )


def _wrong_pattern(key: str, value: object) -> Problem:
    return Problem(
        "config-pattern",
        f"{CONFIG_FILE}: {key} is {_show(value)}, not names with values",
        "save the adapter again with PEFT: model.save_pretrained(folder)",
    )


def _is_number(value: object) -> TypeGuard[int | float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)


def _is_names(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _show(value: object) -> str:
    """A value from an untrusted file, short enough for a line."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**18:
        return "a huge number"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
