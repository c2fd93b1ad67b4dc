"""Why a job failed, in words for its owner: never a path or a stack trace of the server."""

import re

from registry import BaseNotMade, DiskFull, LorikeetError, UnknownBase, UsageError
from train.errors import (
    BaseNotTrainable,
    DataError,
    DataFileMissing,
    Interrupted,
    LossNotFinite,
    NameBusy,
    OutOfMemory,
    RunChanged,
    SettingsError,
)
from train.worker.order import Order, Outcome

KILLED = "killed"
"""The child died without a word: no memory was left, most likely."""
BUSY = "busy"
"""Another process still works on the run; no failure."""
DISK_FULL = "disk_full"
OUT_OF_MEMORY = "out_of_memory"
INTERNAL = "internal_error"
BASE_CHANGED = "base_changed"
INVALID_FILE = {
    "training_file": "invalid_training_file",
    "validation_file": "invalid_validation_file",
}
INVALID_SETTINGS = "invalid_hyperparameters"

OWN_FAULT = (
    "The training failed for a reason that lies with the server, not with your files; its operator "
    "finds it in the log of the job."
)
BASE_GONE = "The base model of the job is no longer what it was when the job was made."
_PATH = re.compile(r"(?<![\w.])/(?:[\w.~@+-]+/)+[\w.~@+-]*")


def failure(error: BaseException, order: Order) -> Outcome:
    """The outcome of a child whose `order` ended in `error`."""
    match error:
        case Interrupted() | KeyboardInterrupt():
            return Outcome("stopped")
        case NameBusy():
            return Outcome("failed", BUSY, error.message)
        case DiskFull():
            return Outcome("failed", DISK_FULL, "The server's disk is full.")
        case LossNotFinite():
            return Outcome(
                "failed",
                "training_diverged",
                f"The loss was no longer a finite number at step {error.step}. Lower "
                "learning_rate_multiplier (to a tenth of it, say), or lengthen lorikeet.warmup.",
                "learning_rate_multiplier",
            )
        case OutOfMemory():
            return Outcome("failed", OUT_OF_MEMORY, _told(error, order))
        case MemoryError():
            return Outcome("failed", OUT_OF_MEMORY, "No memory was left on the server.")
        case SettingsError():
            text = clean("; ".join(error.problems), order)
            return Outcome("failed", INVALID_SETTINGS, text, "lorikeet")
        case DataError() | DataFileMissing():
            other = order.validation
            param = "validation_file" if other and other.path in error.message else "training_file"
            return Outcome("failed", INVALID_FILE[param], _told(error, order), param)
        case BaseNotTrainable():
            return Outcome("failed", "base_not_trainable", _told(error, order), "model")
        case UnknownBase() | BaseNotMade() | RunChanged():
            return Outcome("failed", BASE_CHANGED, BASE_GONE, "model")
        case UsageError():
            return Outcome("failed", INVALID_SETTINGS, _told(error, order))
    return Outcome("failed", INTERNAL, OWN_FAULT)


def clean(text: str, order: Order) -> str:
    """The text with files by the names that their owner knows, and no other path."""
    for source in (order.training, order.validation):
        if source is not None:
            text = text.replace(source.path, source.filename)
    return _PATH.sub("…", text)


def _told(error: LorikeetError, order: Order) -> str:
    remedy = f" ({error.remedy})" if error.remedy else ""
    return clean(error.message + remedy, order)
