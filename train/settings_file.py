"""Reading settings: defaults, then a YAML file, then `--set key=value`.

Every wrong setting is told at once, an unknown one with the nearest name; one that other trainers
have, and that makes an adapter which cannot be served, with the reason.
"""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from train.errors import SettingsError
from train.settings import TrainSettings

_UNSERVABLE: tuple[tuple[frozenset[str], str], ...] = (
    (
        frozenset({"dora", "use_dora"}),
        "DoRA normalises the base's own weights; its adapter is no low-rank sum beside them, and "
        "vLLM does not serve it",
    ),
    (
        frozenset({"init", "init_lora_weights"}),
        "PiSSA, OLoRA, LoftQ, CorDA and EVA change the base's weights at the start, so the adapter "
        "would not fit the base that is served; LoRA's own start is used",
    ),
    (
        frozenset({"modules_to_save", "full_modules"}),
        "whole layers in an adapter would replace the base's for everybody; adapt them with "
        "`targets`",
    ),
    (
        frozenset(
            {
                "trainable_token_indices",
                "add_tokens",
                "new_tokens",
                "additional_special_tokens",
                "resize_token_embeddings",
            }
        ),
        "new or trained tokens change the embedding that all adapters share; use the words that "
        "the tokenizer has",
    ),
    (
        frozenset({"bias", "lora_bias"}),
        "trained biases are no part of a low-rank product; vLLM does not serve them",
    ),
    (
        frozenset({"rank_pattern", "alpha_pattern"}),
        "ranks and alphas by layer are not served; set one `rank` and one `alpha`",
    ),
    (
        frozenset({"chat_template", "chat_template_path"}),
        "the server renders chats with the base's own template; change it there, for training and "
        "serving alike",
    ),
)
"""Settings that PEFT and TRL take and that make an adapter which cannot be served, and why."""


def load_settings(config: Path | None = None, overrides: Iterable[str] = ()) -> TrainSettings:
    """Settings from defaults, the YAML file `config` and `key=value` overrides, in this order.

    Paths in the file are relative to the file's folder, paths in an override to the working
    folder. Raises SettingsError with every problem of both.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    if config is not None:
        values.update(_read_config(config, problems))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            problems.append(f"--set {override}: write key=value, rank=8 for one")
            continue
        try:
            values[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError:
            values[key.strip()] = text
    return _validated(values, problems)


def settings_with(values: Mapping[str, Any]) -> TrainSettings:
    """The settings that differ from the defaults by `values`. Raises SettingsError."""
    return _validated(values, [])


def settings_of(training: Mapping[str, Any] | None) -> TrainSettings:
    """The settings in the training record of a manifest.

    An adapter without one was made elsewhere, so its base is taken as it is, not quantised.
    """
    recorded = (training or {}).get("settings")
    if not isinstance(recorded, Mapping):
        return TrainSettings(quantization="none")
    known = {key: value for key, value in recorded.items() if key in TrainSettings.model_fields}
    try:
        return TrainSettings.model_validate(known)
    except ValidationError as error:
        raise SettingsError(
            [f"the version's training record is not one this lorikeet can read: {error}"]
        ) from error


def _read_config(config: Path, problems: list[str]) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(f"--config {config}: {error.strerror or error}")
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problems.append(f"--config {config} is not YAML: {' '.join(str(error).split())}")
        return {}
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        problems.append(f"--config {config}: write one `key: value` a line")
        return {}
    few_shot = content.get("few_shot_data")
    if isinstance(few_shot, str):
        content["few_shot_data"] = str(config.parent / few_shot)
    return content


def _validated(values: Mapping[str, Any], problems: list[str]) -> TrainSettings:
    fields = TrainSettings.model_fields
    for key in values:
        reason = next((why for names, why in _UNSERVABLE if key in names), None)
        if reason is not None:
            problems.append(f"{key}: {reason}")
        elif key not in fields:
            near = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else "see `lorikeet train --help`"
            problems.append(f"{key}: there is no such setting; {hint}")
    known = {key: value for key, value in values.items() if key in fields}
    # YAML 1.1 reads 1e-3 as text, pydantic reads the text as a number: both spellings work.
    try:
        settings = TrainSettings.model_validate(known)
    except ValidationError as error:
        seen: set[str] = set()
        for detail in error.errors(include_url=False):
            key = str(detail["loc"][0])
            if key in seen:  # a union tells once for each of its members
                continue
            seen.add(key)
            message = detail["msg"].removeprefix("Value error, ")
            problems.append(f"{key}={known[key]!r}: {message} ({fields[key].description})")
        settings = TrainSettings()
    if problems:
        raise SettingsError(problems)
    return settings
