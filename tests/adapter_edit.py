"""Ways to break an adapter on disk."""

import json
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"
SHORT = {"A0": f"{PREFIX}.lora_A.weight", "B0": f"{PREFIX}.lora_B.weight"}


class Bomb:
    """Unpickled, it leaves a folder `opened` behind: the tests look for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.folder / "opened"),))


@dataclass(frozen=True)
class Edit:
    """Changes one thing of the adapter in `folder`."""

    folder: Path

    @property
    def weights(self) -> Path:
        return self.folder / "adapter_model.safetensors"

    def config(self, **changes: Any) -> None:
        """Change keys of the config; Ellipsis deletes one."""
        path = self.folder / "adapter_config.json"
        values = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in values.items() if v is not ...}))

    def raw_config(self, content: bytes) -> None:
        (self.folder / "adapter_config.json").write_bytes(content)

    def tensors(self, **changes: Any) -> None:
        """Change tensors by name (A0 and B0 for short): None deletes, a callable maps."""
        values = load_file(self.weights)
        for short, change in changes.items():
            name = SHORT.get(short, short)
            if change is None:
                del values[name]
            else:
                values[name] = change(values[name]) if callable(change) else change
        self.save(values)

    def add(self, name: str, *shape: int) -> None:
        """Add a tensor of ones."""
        self.tensors(**{name: np.ones(shape, dtype=np.float32)})

    def every(self, half: str, change: Callable[[Any], Any]) -> None:
        """Change every A or every B."""
        values = load_file(self.weights)
        self.save({k: change(v) if f"lora_{half}" in k else v for k, v in values.items()})

    def rename(self, old: str, new: str) -> None:
        """Replace text in every tensor's name."""
        self.save({k.replace(old, new): v for k, v in load_file(self.weights).items()})

    def save(self, values: dict[str, Any]) -> None:
        save_file({k: np.ascontiguousarray(v) for k, v in values.items()}, self.weights)

    def raw_weights(self, change: bytes | Callable[[bytes], bytes]) -> None:
        old = self.weights.read_bytes()
        self.weights.write_bytes(change(old) if callable(change) else change)

    def header(self, change: Callable[[str], bytes]) -> None:
        """Change the weights' header, given as text; its length follows."""
        content = self.weights.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        text = change(content[8 : 8 + length].decode())
        self.weights.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])

    def metadata(self, value: str) -> None:
        """Put raw JSON for the header's __metadata__."""
        plain = '"__metadata__":{"format":"pt"}'
        self.header(lambda text: text.replace(plain, f'"__metadata__":{value}').encode())

    def touch(self, name: str) -> Path:
        """An empty file beside the adapter's own."""
        (self.folder / name).touch()
        return self.folder / name

    def link(self, name: str) -> None:
        (self.folder / name).rename(self.folder.parent / name)
        (self.folder / name).symlink_to(self.folder.parent / name)

    def pipe(self, name: str) -> None:
        (self.folder / name).unlink()
        os.mkfifo(self.folder / name)

    def pickle(self, name: str) -> None:
        """Put a pickle in the place of the weights, under `name`."""
        self.weights.unlink()
        (self.folder / name).write_bytes(pickle.dumps(Bomb(self.folder)))

    def bfloat16(self, special: int = 0x3F80) -> None:
        """Store everything in bfloat16, with one special word in A0."""
        content = self.weights.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        header.pop("__metadata__", None)
        data, out = content[8 + length :], b""
        for name, item in header.items():
            begin, end = item["data_offsets"]
            words = np.frombuffer(data[begin:end], dtype=np.uint16)[1::2].copy()
            if name == SHORT["A0"]:
                words[-1] = special
            item["dtype"], item["data_offsets"] = "BF16", [len(out), len(out) + words.nbytes]
            out += words.tobytes()
        text = json.dumps(header).encode()
        self.weights.write_bytes(struct.pack("<Q", len(text)) + text + out)

    def manifest(self, base_id: str, base_digest: str) -> None:
        """Put a manifest of ours beside the adapter that says which base it was made for."""
        manifest = {
            "name": "x",
            "version": 1,
            "digest": "sha256:" + "0" * 64,
            "created_at": "2026-01-01T00:00:00Z",
            "base": {"id": base_id, "digest": base_digest},
            "rank": 8,
            "alpha": 16.0,
            "target_modules": ["q_proj"],
            "template_digest": "",
            "tokenizer_digest": "",
            "files": {},
            "origin": "train",
        }
        (self.folder / "manifest.json").write_text(json.dumps(manifest))
