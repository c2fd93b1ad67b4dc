"""One training run from a data file to a published version.

settings → rows → held-out rows → base → train → evaluate → publish
"""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from registry import (
    DEFAULT_BASE,
    Base,
    Registry,
    RegistrySettings,
    UsageError,
    Version,
    check_name,
    resolve_base,
)
from train import trainer
from train.base_model import load_base, load_tokenizer, stop_ids
from train.data.masking import ChatEncoder, EncodedChat, encode_chats
from train.data.parts import Part, few_shot_examples, read_data
from train.errors import Interrupted
from train.evaluation.scorer import Scorer
from train.evaluation.scores import Evaluation
from train.hardware import Hardware, detect
from train.progress import Reporter, SilentReporter
from train.settings import TrainSettings


@dataclass(frozen=True)
class TrainRequest:
    """What to train: rows, the adapter's name, the base, and how."""

    data: Path
    name: str
    base: str | Path = DEFAULT_BASE
    settings: TrainSettings = field(default_factory=TrainSettings)
    eval_data: Path | None = None
    publish: bool = True
    registry_settings: RegistrySettings = field(default_factory=RegistrySettings)


@dataclass(frozen=True)
class TrainResult:
    """What came out: the version (None with publish off), what it took, and how good it is."""

    name: str
    base: str
    version: Version | None
    training: dict[str, Any]
    evaluation: Evaluation | None

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "name": self.name,
            "base": self.base,
            "version": self.version.reference if self.version else None,
            "path": str(self.version.path) if self.version else None,
            "training": self.training,
            "evaluation": self.evaluation.as_dict() if self.evaluation else None,
        }


def run(request: TrainRequest, reporter: Reporter | None = None) -> TrainResult:
    """Train, evaluate and publish; raise a LorikeetError, and publish nothing, where that fails.

    Ctrl-C raises Interrupted and leaves nothing behind.
    """
    reporter = reporter or SilentReporter()
    check_name(request.name)
    if request.name == str(request.base):
        raise UsageError(
            f"an adapter cannot be named like its base, {request.name}",
            remedy="choose another --name",
        )
    try:
        return _run(request, reporter)
    except KeyboardInterrupt:
        raise Interrupted(
            "stopped; nothing was published", remedy="run the same command to start again"
        ) from None


def _run(request: TrainRequest, reporter: Reporter) -> TrainResult:
    settings = request.settings
    training, held_out = read_data(request.data, request.eval_data, settings, reporter.note)
    examples = few_shot_examples(settings, training) if held_out.chats else ()
    hardware = detect(settings)
    base = resolve_base(request.base, request.registry_settings, reporter.making)
    tokenizer = load_tokenizer(base)
    encoder = ChatEncoder(tokenizer, base.id, stop_ids(base))
    rows = _encode(training, encoder, settings, reporter)
    held_out_rows = _encode(held_out, encoder, settings, reporter)
    reporter.note(
        f"training {request.name} on {base.id} ({settings.quantization}, {hardware.dtype}, "
        f"{hardware.device}): {len(rows)} rows, {sum(row.length for row in rows):,} tokens, "
        f"{sum(row.trained_tokens for row in rows):,} of them in the loss"
    )
    model = load_base(base, settings, hardware)
    sequences = [sequence for row in rows for sequence in row.sequences]
    trained = trainer.train_adapter(model, tokenizer, sequences, settings, hardware, reporter.step)
    evaluation = None
    if held_out_rows:
        evaluation = Scorer(
            trained.model, tokenizer, encoder, held_out_rows, settings, reporter
        ).run(examples)
    record = _record(settings, rows, trained, hardware)
    version = _publish(request, base, trained, record, evaluation) if request.publish else None
    return TrainResult(request.name, base.id, version, record, evaluation)


def _encode(
    part: Part, encoder: ChatEncoder, settings: TrainSettings, reporter: Reporter
) -> list[EncodedChat]:
    rows = encode_chats(
        encoder,
        part.chats,
        part.path,
        max_length=settings.max_length,
        drop_long=settings.too_long == "drop",
    )
    if dropped := len(part.chats) - len(rows):
        reporter.note(
            f"{dropped} rows of {part.path.name} are longer than {settings.max_length} tokens: "
            "left out"
        )
    return rows


def _record(
    settings: TrainSettings,
    rows: Sequence[EncodedChat],
    trained: trainer.Trained,
    hardware: Hardware,
) -> dict[str, Any]:
    """What the manifest keeps of the run: everything that it takes to repeat and to judge it."""
    chosen = settings.model_dump(mode="json", exclude={"few_shot_data"})
    losses = [round(loss, 6) for loss in trained.losses]
    return {
        "settings": {**chosen, "alpha": settings.lora_alpha, "targets": list(trained.targets)},
        "seed": settings.seed,
        "rows": len(rows),
        "steps": trained.steps,
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
        "libraries": {name: installed_version(name) for name in _LIBRARIES},
    }


def _publish(
    request: TrainRequest,
    base: Base,
    trained: trainer.Trained,
    record: dict[str, Any],
    evaluation: Evaluation | None,
) -> Version:
    digest = hashlib.sha256(request.data.read_bytes()).hexdigest()
    with (
        tempfile.TemporaryDirectory(prefix="lorikeet-adapter-") as scratch,
        Registry.open(request.registry_settings) as registry,
    ):
        trainer.save_adapter(trained.model, base, Path(scratch))
        return registry.publish(
            Path(scratch),
            request.name,
            base=base,
            origin="train",
            training=record,
            data_digest=f"sha256:{digest}",
            evaluation=evaluation.as_dict() if evaluation else None,
        )


_LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes")
