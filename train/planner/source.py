"""Finding a model's config.json: a file, a folder, the default base, or a model on the hub."""

import json
from pathlib import Path
from typing import Any

from registry import DEFAULT_BASE, OnProgress, RegistrySettings, UnknownBase, resolve_base

_CONFIG = "config.json"


def read_config(
    model: str, settings: RegistrySettings, on_progress: OnProgress | None = None
) -> dict[str, Any]:
    """The config of `model`; of a hub's model nothing else is fetched.

    A config of a model of several parts gives its language model's (`text_config`). Raises
    UnknownBase where there is none, or it cannot be read.
    """
    path = _find(model, settings, on_progress)
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UnknownBase(
            f"{path} cannot be read: {error}", remedy="name the config.json of a model"
        ) from error
    if not isinstance(config, dict):
        raise UnknownBase(f"{path} is no JSON object", remedy="name the config.json of a model")
    return config


def _find(model: str, settings: RegistrySettings, on_progress: OnProgress | None) -> Path:
    path = Path(model).expanduser()
    if path.is_file():
        return path
    if path.is_dir() and model:
        if not (path / _CONFIG).is_file():
            raise UnknownBase(
                f"{path} has no {_CONFIG}", remedy="name the folder that holds the model"
            )
        return path / _CONFIG
    if model == DEFAULT_BASE:
        made = settings.bases / DEFAULT_BASE / _CONFIG
        return made if made.is_file() else resolve_base(model, settings, on_progress).path / _CONFIG
    repository, _, revision = model.partition("@")
    if repository.count("/") == 1 and path.suffix != ".json":
        from registry import hub

        return hub.fetch(repository, revision or None, on_progress, only=(_CONFIG,)) / _CONFIG
    raise UnknownBase(
        f"there is no model {model!r}, and no such file",
        remedy=f"name {DEFAULT_BASE}, a config.json, a model's folder or a Hugging Face id",
    )
