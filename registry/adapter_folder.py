"""The files of an adapter on disk: which ones count, and that they are plain files of ours.

Nothing here is opened but what is named, nothing is followed out of the folder.
"""

import os
import stat
from pathlib import Path

from registry.adapter_config import CONFIG_FILE
from registry.base_identity import TEMPLATE_FILES, TOKENIZER_FILES
from registry.manifest import MANIFEST_FILE
from registry.problem import Problem

WEIGHTS_FILE = "adapter_model.safetensors"
ADAPTER_FILES = (CONFIG_FILE, WEIGHTS_FILE)
"""What an adapter is made of; nothing else is published."""

COMPANION_FILES = (
    *TOKENIZER_FILES,
    *TEMPLATE_FILES,
    MANIFEST_FILE,
)
"""What is looked at to see which base the adapter was made for."""

MAX_COMPANION_BYTES = 64 << 20
"""Of each companion; the largest tokenizers take half of it."""

_PICKLES = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth", "pytorch_model.bin")
_SAVE = "save the adapter again: model.save_pretrained(folder)"


def check_folder(folder: Path, max_bytes: int) -> list[Problem]:
    """Everything wrong with the files of the adapter in `folder` that can be told unopened."""
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        return [Problem("folder-missing", f"{folder} {what}", "name the folder of the adapter")]
    problems, total = [], 0
    for name in (*ADAPTER_FILES, *COMPANION_FILES):
        required = name in ADAPTER_FILES
        try:
            status = os.lstat(folder / name)
        except FileNotFoundError:
            if required:
                problems += _missing(folder, name)
            continue
        except OSError as error:
            problems.append(_unreadable(name, error.strerror or str(error)))
            continue
        if stat.S_ISLNK(status.st_mode):
            problems.append(
                Problem(
                    "file-symlink",
                    f"{name} is a symbolic link",
                    f"copy the adapter with its contents: cp -rL {folder.name} COPY",
                )
            )
        elif not stat.S_ISREG(status.st_mode):
            problems.append(Problem("file-special", f"{name} is not a regular file", _SAVE))
        elif not os.access(folder / name, os.R_OK):
            problems.append(_unreadable(name, "permission denied"))
        elif required:
            total += status.st_size
        elif status.st_size > MAX_COMPANION_BYTES:
            problems.append(
                Problem(
                    "size-limit",
                    f"{name} is larger than {MAX_COMPANION_BYTES >> 20} MiB",
                    "remove it: only the adapter's own files are needed",
                )
            )
    if total > max_bytes:
        problems.append(
            Problem(
                "size-limit",
                f"the adapter takes {total} bytes, above the limit of {max_bytes}",
                "train with a lower rank or fewer target modules, or save it in bfloat16",
            )
        )
    return problems


def has_file(folder: Path, name: str) -> bool:
    """Whether `name` in `folder` is a regular file, not a link to one."""
    try:
        return stat.S_ISREG(os.lstat(folder / name).st_mode)
    except OSError:
        return False


def adapter_bytes(folder: Path) -> int:
    """Bytes of the files that would be published. Raises OSError."""
    return sum(os.lstat(folder / name).st_size for name in ADAPTER_FILES)


def _missing(folder: Path, name: str) -> list[Problem]:
    if name == CONFIG_FILE:
        base = (folder / "config.json").exists()
        hint = "this looks like a whole model; name the folder of its adapter" if base else _SAVE
        return [Problem("config-missing", f"{name} is missing", hint)]
    pickles = [pickle for pickle in _PICKLES if os.path.lexists(folder / pickle)]
    if pickles:
        return [
            Problem(
                "weights-pickle",
                f"{pickles[0]} is a pickle: it can run code, and is never opened",
                "load the adapter where you trust it and save it with "
                "save_pretrained(folder, safe_serialization=True)",
            )
        ]
    return [Problem("weights-missing", f"{name} is missing", _SAVE)]


def _unreadable(name: str, why: str) -> Problem:
    return Problem("file-unreadable", f"{name} cannot be read: {why}", "make it readable")
