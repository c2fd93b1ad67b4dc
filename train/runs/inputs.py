"""What a run trains on, so that it can be told later whether that is still the same."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from registry.files import sha256_of
from train.data.masking import EncodedChat
from train.data.parts import Part
from train.errors import RunChanged, RunDamaged
from train.runs.folder import RunFolder


def describe(part: Part, rows: Sequence[EncodedChat]) -> dict[str, Any]:
    """A part of the data as data.json has it: where it is, its digest, its size in the run.

    `sha256` is that of the file; of a folder or a data set of the hub, that of its rows as JSON.
    `ids_sha256` is that of all token ids and labels.
    """
    ids = hashlib.sha256()
    for row in rows:
        for sequence in row.sequences:
            ids.update(json.dumps([sequence.input_ids, sequence.labels]).encode() + b"\n")
    return {
        "path": lasting(part.path),
        "sha256": digest_of(part),
        "ids_sha256": ids.hexdigest(),
        "rows": len(rows),
        "tokens": sum(row.length for row in rows),
        "trained_tokens": sum(row.trained_tokens for row in rows),
    }


def lasting(place: str | Path) -> str:
    """A path as it can be found again from another working folder; a hub's id as it is."""
    path = Path(place)
    return str(path.absolute()) if path.exists() else str(place)


def digest_of(part: Part) -> str:
    """The SHA-256 of the part's file, or of its rows where it is no file. Raises OSError."""
    if part.path.is_file():
        return sha256_of(part.path)
    digest = hashlib.sha256()
    for chat in part.chats:
        digest.update(json.dumps(chat.as_row(), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def same_data(folder: RunFolder, part: Part) -> bool:
    """Whether `part` is what the run was trained on. Raises RunDamaged."""
    before = _read(folder.data_file) or {}
    return (before.get("data") or {}).get("sha256") == digest_of(part)


def check_unchanged(folder: RunFolder, data: dict[str, Any], base_digest: str) -> None:
    """Raise RunChanged where a run's data or base are not what they were; RunDamaged unreadable."""
    begun_on = folder.record.base_digest
    if begun_on is not None and begun_on != base_digest:
        raise RunChanged(
            f"the base of run {folder.id} has changed since it began",
            remedy="start a new run on the base as it is now",
        )
    before = _read(folder.data_file)
    if before is None:  # killed before anything was trained
        return
    for part, what in (("data", "the training data"), ("held_out", "the held-out data")):
        was, now = before.get(part), data.get(part)
        if (was or {}).get("sha256") != (now or {}).get("sha256"):
            path = (now or was or {}).get("path", "")
            raise RunChanged(
                f"{what} of run {folder.id} has changed since it began: {Path(path).name}",
                remedy="put the file back as it was, or start a new run",
            )
        ids = (was or {}).get("ids_sha256")  # runs of earlier releases have none
        if ids is not None and ids != (now or {}).get("ids_sha256"):
            raise RunChanged(
                f"{what} of run {folder.id} has other token ids than when it began: the tokenizer "
                "or its chat template has changed",
                remedy="put the base's files back as they were, or start a new run",
            )


def check_environment(folder: RunFolder, now: dict[str, Any]) -> list[str]:
    """What differs from the environment that the run began in, and may change its numbers.

    Raises RunChanged where there were more or fewer processes: they saw other batches.
    """
    before = _read(folder.environment_file)
    if before is None:
        return []
    if before.get("processes") != now["processes"]:
        raise RunChanged(
            f"run {folder.id} began with {before.get('processes')} processes, these are "
            f"{now['processes']}",
            remedy="resume it with as many processes, or start a new run",
        )
    changed = []
    for part in ("libraries", "hardware"):
        was = before.get(part) or {}
        changed += [
            f"{key} was {was[key]}, is {value}"
            for key, value in now[part].items()
            if key in was and was[key] != value
        ]
    return changed


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunDamaged(f"{path} cannot be read: {error}", remedy="start a new run") from error
    return values if isinstance(values, dict) else None
