"""What a base model is, in three digests, so that an adapter can say which one it was made for.

Reading a model's whole weights takes seconds to minutes; the identity samples 16 blocks of 64 KiB
a shard, which tells any two real models apart, and is remembered in the data folder as long as the
files keep their sizes and times.
"""

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

SHAPE_KEYS = (
    "architectures",
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
TEMPLATE_FILES = ("chat_template.jinja", "tokenizer_config.json")
_BLOCKS, _BLOCK_BYTES = 16, 64 * 1024


@dataclass(frozen=True, slots=True)
class Identity:
    """Digests, each "sha256:" and 64 hexadecimal digits."""

    digest: str
    """Of the weights (sampled) and of the shapes in config.json."""
    template_digest: str
    tokenizer_digest: str


def identify(folder: Path, shards: list[Path], remembered: Path | None = None) -> Identity:
    """The identity of the model in `folder`, from the file `remembered` where that still holds.

    Raises OSError or ValueError where a file cannot be read or parsed.
    """
    signature = _signature(folder, shards)
    if remembered is not None:
        with suppress(OSError, ValueError, TypeError, KeyError):
            note = json.loads(remembered.read_text())
            if note["signature"] == signature:
                return Identity(**note["identity"])
    identity = Identity(
        digest=_weights_digest(folder, shards),
        template_digest=template_digest(folder),
        tokenizer_digest=tokenizer_digest(folder),
    )
    if remembered is not None:
        _remember(remembered, {"signature": signature, "identity": asdict(identity)})
    return identity


def template_digest(folder: Path) -> str:
    """Digest of the chat template's text in `folder`; of the empty text where there is none."""
    return _sha256(chat_template(folder).encode())


def chat_template(folder: Path) -> str:
    """The default chat template in `folder`, "" where there is none. Raises ValueError, OSError."""
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    config = folder / "tokenizer_config.json"
    if not config.is_file():
        return ""
    settings = json.loads(config.read_bytes())
    template = settings.get("chat_template") if isinstance(settings, dict) else None
    if isinstance(template, list):  # several, by name
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else ""


def tokenizer_digest(folder: Path) -> str:
    """Digest of what the tokenizer does with text, however it was saved; "" where there is none.

    Padding, truncation and the spelling of the merges differ between versions of the libraries
    that write the same tokenizer: they do not count. Raises ValueError, OSError.
    """
    path = folder / TOKENIZER_FILES[0]
    if path.is_file():
        tokenizer = json.loads(path.read_bytes())
        if not isinstance(tokenizer, dict) or not isinstance(tokenizer.get("model"), dict):
            raise ValueError(f"{path.name} does not describe a tokenizer")
        return _sha256(_canonical(_behaviour(tokenizer)))
    present = [folder / name for name in TOKENIZER_FILES[1:] if (folder / name).is_file()]
    if not present:
        return ""
    return _sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in present))


def _behaviour(tokenizer: dict[str, Any]) -> dict[str, Any]:
    model = tokenizer["model"]
    merges = model.get("merges") or []
    return {
        "vocab": model.get("vocab"),
        "merges": [m.split(" ") if isinstance(m, str) else m for m in merges],
        "added": [
            [token.get("id"), token.get("content")]
            for token in tokenizer.get("added_tokens") or []
            if isinstance(token, dict)
        ],
        "normalizer": tokenizer.get("normalizer"),
        "pre_tokenizer": tokenizer.get("pre_tokenizer"),
    }


def _weights_digest(folder: Path, shards: list[Path]) -> str:
    config = json.loads((folder / "config.json").read_bytes())
    whole = hashlib.sha256(_canonical({key: config.get(key) for key in SHAPE_KEYS}))
    for shard in shards:
        whole.update(_sample(shard))
    return "sha256:" + whole.hexdigest()


def _sample(shard: Path) -> bytes:
    """Digest of the size, the header and evenly spaced blocks of one shard."""
    size = shard.stat().st_size
    sample = hashlib.sha256(size.to_bytes(8, "little"))
    with shard.open("rb") as file:
        length = min(int.from_bytes(file.read(8), "little"), size)
        sample.update(file.read(length))
        start = min(8 + length, size)
        room = max(size - start - _BLOCK_BYTES, 0)
        for block in range(_BLOCKS):
            file.seek(start + room * block // (_BLOCKS - 1))
            sample.update(file.read(_BLOCK_BYTES))
    return sample.digest()


def _signature(folder: Path, shards: list[Path]) -> list[list[Any]]:
    names = ("config.json", *TEMPLATE_FILES, *TOKENIZER_FILES)
    files = [path for name in names if (path := folder / name).is_file()] + shards
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]


def _remember(path: Path, note: dict[str, Any]) -> None:
    """Write `note`; a data folder that cannot be written costs time later, nothing else."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{uuid4().hex}")
        draft.write_text(json.dumps(note))
        draft.replace(path)


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def _sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()
