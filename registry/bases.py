"""Base models: the embedded one, a local folder or a Hugging Face id, made ready on disk."""

import difflib
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry import hub
from registry.base_identity import TOKENIZER_FILES, identify
from registry.embedded_base import DEFAULT_BASE, make_embedded_base
from registry.errors import UnknownBase
from registry.settings import RegistrySettings

__all__ = ["DEFAULT_BASE", "Base", "OnProgress", "resolve_base"]

OnProgress = Callable[[str, float], None]
"""Told what is being done and how far it is, 0.0 to 1.0, when a base takes time to make ready."""

_HUB_ID = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(@(?P<revision>[\w./-]{1,200}))?"
)


@dataclass(frozen=True, slots=True)
class Base:
    """A base model on this machine.

    `id` is what people write and see; `path` holds config.json, the tokenizer and safetensors.
    The digests are "sha256:" and 64 hexadecimal digits: `digest` of shapes and weights,
    `template_digest` of the chat template's text (the empty text's where there is none),
    `tokenizer_digest` of what the tokenizer does. `revision` is the commit of a hub model.
    """

    id: str
    path: Path
    digest: str
    template_digest: str
    tokenizer_digest: str
    revision: str | None = None

    @property
    def config(self) -> dict[str, Any]:
        """What config.json says, read anew each time."""
        config: dict[str, Any] = json.loads((self.path / "config.json").read_bytes())
        return config

    @property
    def vocabulary(self) -> int | None:
        """Token ids are below this; None where config.json does not say."""
        config = self.config
        size: int | None = config.get("text_config", config).get("vocab_size")
        return size


def resolve_base(
    base: str | Path, settings: RegistrySettings, on_progress: OnProgress | None = None
) -> Base:
    """The base model that `base` names: the embedded one, a local folder, or a hub id.

    A hub id may end in @REVISION. The embedded base is de-quantised the first time (half a minute,
    540 MB); afterwards this takes milliseconds. Raises UnknownBase, BaseNotMade or DiskFull.
    """
    if isinstance(base, str) and base == DEFAULT_BASE:
        return _read(base, make_embedded_base(settings, on_progress), settings)
    folder = Path(base).expanduser()
    if base != "" and folder.is_dir():
        folder = folder.resolve()
        return _read(folder.name, folder, settings)
    text = str(base)
    if isinstance(base, str) and (match := _HUB_ID.fullmatch(text)):
        repository = match["repo"]
        snapshot = hub.fetch(repository, match["revision"], on_progress)
        return _read(repository, snapshot, settings, revision=snapshot.name)
    known = [DEFAULT_BASE]
    near = difflib.get_close_matches(text.lower(), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? Otherwise name" if near else "name"
    raise UnknownBase(
        f"there is no base model {text!r}",
        remedy=f"{hint} {DEFAULT_BASE}, a Hugging Face id (organisation/model) or a local folder",
    )


def _read(
    base_id: str, folder: Path, settings: RegistrySettings, revision: str | None = None
) -> Base:
    _check_config(base_id, folder)
    shards = _shards(base_id, folder)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UnknownBase(
            f"{base_id} has no tokenizer in {folder}",
            remedy="save the tokenizer beside the model: tokenizer.save_pretrained(folder)",
        )
    key = hashlib.sha256(str(folder).encode()).hexdigest()[:32]
    try:
        identity = identify(folder, shards, settings.bases / ".identities" / f"{key}.json")
    except (OSError, ValueError) as error:
        raise UnknownBase(
            f"{base_id} cannot be read from {folder}: {error}",
            remedy="save or download the model again",
        ) from error
    return Base(
        id=base_id,
        path=folder,
        digest=identity.digest,
        template_digest=identity.template_digest,
        tokenizer_digest=identity.tokenizer_digest,
        revision=revision,
    )


def _check_config(base_id: str, folder: Path) -> None:
    config = folder / "config.json"
    if not config.is_file():
        adapter = (folder / "adapter_config.json").is_file()
        raise UnknownBase(
            f"{base_id} is an adapter, not a base model"
            if adapter
            else f"{base_id} is no model: {folder} has no config.json",
            remedy="name the folder that save_pretrained wrote the base model to",
        )
    try:
        if not isinstance(json.loads(config.read_bytes()), dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError) as error:
        raise UnknownBase(
            f"the config.json of {base_id} cannot be read: {error}",
            remedy="save or download the model again",
        ) from error


def _shards(base_id: str, folder: Path) -> list[Path]:
    """The weight files: those of the index, or the one file, or every safetensors file."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
            shards = [folder / Path(name).name for name in names]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnknownBase(
                f"the weight index of {base_id} cannot be read: {error}",
                remedy="save or download the model again",
            ) from error
    else:
        shards = [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing or not shards:
        raise UnknownBase(
            f"{base_id} misses weights: {', '.join(missing) or 'no *.safetensors'} in {folder}",
            remedy="only safetensors are read: save it with model.save_pretrained(folder)",
        )
    return shards
