"""Manners for the training libraries: their exceptions become ours, their bars stay off."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from registry import DiskFull, LorikeetError
from registry.disk import is_full
from train.errors import OutOfMemory, TrainingFailed

# safetensors and torch.save tell of a failed write in words only.
_FULL_WORDS = ("no space left", "os error 28", "os error 27", "os error 122", "file write failed")


_SMALLER_STEPS = "lower batch_size (and raise gradient_accumulation), or max_length"
SMALLER_BATCHES = "lower eval_batch_size, or leave out the longest rows"
"""The remedy where rows are only read."""


@contextmanager
def library_errors(doing: str, memory: str = _SMALLER_STEPS) -> Iterator[None]:
    """Let LorikeetError and interrupts through; map whatever else is raised while `doing`.

    `memory` is the remedy where none was left.
    """
    try:
        yield
    except LorikeetError:
        raise
    except Exception as error:
        raise _mapped(doing, error, memory) from error


def _mapped(doing: str, error: Exception, memory: str) -> LorikeetError:
    text = " ".join(str(error).split()) or type(error).__name__
    if len(text) > 300:
        text = text[:297] + "…"
    # torch.OutOfMemoryError is a RuntimeError; the CPU allocator raises a bare RuntimeError.
    is_memory = isinstance(error, MemoryError) or "out of memory" in text.lower()
    if is_memory or "can't allocate memory" in text:
        return OutOfMemory(f"no memory left while {doing}", remedy=memory)
    if is_disk_full(error):
        return DiskFull(f"no disk space left while {doing}", needed=0, remedy="free some space")
    return TrainingFailed(
        f"{doing} failed: {type(error).__name__}: {text}",
        remedy="if the settings look right, report it with the command and this message",
    )


def is_disk_full(error: BaseException) -> bool:
    """Whether `error`, the operating system's or a library's, says that a disk is full."""
    if is_full(error):
        return True
    words = str(error).lower()
    return any(part in words for part in _FULL_WORDS)


def quiet_libraries() -> None:
    """Keep the libraries' own bars and notices off the terminal: ours tell as much."""
    from datasets.utils.logging import disable_progress_bar
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    disable_progress_bar()
    for name in ("bitsandbytes", "trl", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
