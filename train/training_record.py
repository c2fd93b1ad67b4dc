"""What a version's manifest keeps of its training: all that it takes to repeat and to judge it."""

from dataclasses import asdict
from typing import Any

from train.hardware import Hardware
from train.runs.folder import library_versions
from train.settings import TrainSettings
from train.trainer import Trained


def training_record(
    run_id: str, settings: TrainSettings, hardware: Hardware, rows: int, trained: Trained
) -> dict[str, Any]:
    """The record of a run on `rows` rows, as JSON values.

    `checkpoint` is None where the last step's weights were kept; else it says which step's were, by
    what held-out loss, so that a reader knows that the evaluation's rows are not wholly unseen.
    """
    chosen = settings.model_dump(mode="json", exclude={"few_shot_data"})
    losses = [round(loss, 6) for loss in trained.losses]
    checkpoint = None
    if trained.best is not None:
        checkpoint = {**asdict(trained.best), "chosen_on": "the held-out rows of the evaluation"}
    return {
        "run": run_id,
        "settings": {**chosen, "alpha": settings.lora_alpha, "targets": list(trained.targets)},
        "seed": settings.seed,
        "rows": rows,
        "steps": trained.steps,
        "checkpoint": checkpoint,
        "tokens": trained.tokens,
        "trained_tokens": trained.trained_tokens,
        "seconds": round(trained.seconds, 3),
        "tokens_per_second": round(trained.tokens_per_second, 1),
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "losses": losses,
        "hardware": {
            "device": hardware.device,
            "name": hardware.name,
            "dtype": hardware.dtype,
            "threads": hardware.threads,
        },
        "libraries": library_versions(),
    }
