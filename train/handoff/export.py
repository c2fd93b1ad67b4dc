"""A version as a folder for elsewhere: PEFT's files, or a whole model with the adapter merged in.

The folder is put together beside its place and renamed into it when it is whole and checked; what
goes wrong before, Ctrl-C and a full disk too, leaves nothing.
"""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from registry import Base, DiskFull, Registry, RegistrySettings, UsageError, Version
from registry.disk import is_full
from train.adapted_model import load_adapted
from train.base_model import load_tokenizer, stop_ids
from train.data.chat import Chat, Message
from train.data.masking import ChatEncoder, Encoded
from train.errors import TrainingFailed
from train.evaluation.subject import find_base
from train.handoff.agreement import TOLERANCES, Agreement, compare_scores
from train.handoff.licence import licence_of
from train.handoff.model_card import Card, Format, model_card
from train.handoff.models import free_memory, load_merged
from train.handoff.token_scores import token_scores
from train.hardware import Hardware, detect
from train.libraries import is_disk_full, library_errors
from train.progress import Reporter
from train.settings_file import settings_of

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
COMPANIONS = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)
"""What decides how a model is talked to: the base's own files go with the merged weights."""
_SPARE_BYTES = 16 << 20
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
CHECKED = (
    ("What is the capital of France?", "The capital of France is Paris."),
    ("Escribe una frase sobre el mar.", "El mar está en calma y el sol se refleja en el agua."),
    ("Count to ten.", "One, two, three, four, five, six, seven, eight, nine, ten."),
    ("Write a line of Python.", "print(sum(number ** 2 for number in range(10)))"),
)
"""What the merged model and the adapted one read, token by token."""


@dataclass(frozen=True)
class ExportRequest:
    """Which version goes where. `dtype` is for merged weights; None: the base's own."""

    reference: str
    out: Path
    format: Format = "peft"
    dtype: str | None = None
    base: str | None = None
    registry_settings: RegistrySettings = field(default_factory=RegistrySettings)


@dataclass(frozen=True)
class Exported:
    """The folder, and how well a merged model agrees with the adapter on its base."""

    version: Version
    folder: Path
    agreement: Agreement | None
    dtype: str | None

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        agreement = self.agreement
        checked = agreement and {
            "tokens": agreement.tokens,
            "max_difference": agreement.max,
            "mean_difference": agreement.mean,
            "top1_agreement": agreement.top1,
        }
        return {
            "reference": self.version.reference,
            "folder": str(self.folder),
            "dtype": self.dtype,
            "files": sorted(path.name for path in self.folder.iterdir()),
            "check": checked,
        }


def export_version(request: ExportRequest, reporter: Reporter) -> Exported:
    """Write a version to `request.out`, which must be new or an empty folder.

    Raises UsageError, UnknownAdapter, VersionDamaged, DiskFull, TrainingFailed or OutOfMemory.
    """
    out = request.out.absolute()
    with Registry.open(request.registry_settings) as registry, ExitStack() as held:
        version = registry.get(request.reference)
        held.enter_context(registry.fetch(version))
        base = find_base(version, request.registry_settings, reporter, request.base)
        dtype = _dtype(request, base)
        with _staged(out) as stage:
            agreement = None
            if dtype is None:
                _need(stage, version.manifest.total_bytes)
                for name in ADAPTER_FILES:
                    shutil.copyfile(version.path / name, stage / name)
            else:
                agreement = _merge(version, base, stage, dtype, reporter)
            licence = licence_of(base)
            for file in licence.files if licence else ():
                shutil.copyfile(file, stage / file.name)
            card = Card(version, base, licence, request.format, dtype)
            (stage / "README.md").write_text(model_card(card), encoding="utf-8")
            stage.rename(out)
    return Exported(version, out, agreement, dtype)


def _dtype(request: ExportRequest, base: Base) -> str | None:
    """Of the merged weights; None where nothing is merged. Raises UsageError."""
    if request.format == "peft":
        if request.dtype is not None:
            raise UsageError(
                "an adapter is exported as it is, in the dtype that it has",
                remedy="leave --dtype out, or export with --format merged",
            )
        return None
    config = base.config.get("text_config", base.config)
    own = request.dtype or config.get("dtype") or config.get("torch_dtype") or "bfloat16"
    if own not in _BYTES:
        raise UsageError(f"no weights in {own}", remedy=f"--dtype takes {', '.join(_BYTES)}")
    return str(own)


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """A folder beside `out` that the caller renames to it; left as it is, it is deleted."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} is there already", remedy="name a new or an empty folder")
    if not out.parent.is_dir():
        raise UsageError(f"there is no folder {out.parent}", remedy=f"mkdir -p {out.parent}")
    stage = out.parent / f".{out.name}.draft"
    lock = FileLock(stage.with_suffix(".lock"), blocking=False, thread_local=False)
    try:
        with lock:
            shutil.rmtree(stage, ignore_errors=True)  # of one that was killed
            try:
                stage.mkdir()
                yield stage
            finally:
                shutil.rmtree(stage, ignore_errors=True)
                Path(lock.lock_file).unlink(missing_ok=True)
    except Timeout as error:
        raise UsageError(
            f"another export to {out} is under way", remedy="wait for it, or name another folder"
        ) from error
    except OSError as error:
        if is_full(error):
            raise _disk_full(out.parent, 0) from error
        raise UsageError(
            f"{out} cannot be written: {error.strerror or error}",
            remedy="name a folder that you may write to",
        ) from error


def _merge(version: Version, base: Base, stage: Path, dtype: str, reporter: Reporter) -> Agreement:
    """Write the merged model, read it again, and compare it with the adapter on its base."""
    settings = settings_of(version.manifest.training)
    hardware = detect(settings).for_weights(dtype)
    rows = _checked_rows(base)
    reporter.note(f"merging {version.reference} into {base.id}, in {dtype}")
    merged = load_merged(base, version.path, settings, hardware, dtype=dtype)
    _save(merged, base, stage, dtype)
    del merged
    free_memory()
    reporter.note("checking what was written")
    pad_id, batch_size = load_tokenizer(base).pad_token_id, settings.eval_batch_size
    written = token_scores(_load(stage, hardware), rows, pad_id=pad_id, batch_size=batch_size)
    free_memory()
    adapted = load_adapted(base, version.path, settings, hardware)
    expected = token_scores(adapted, rows, pad_id=pad_id, batch_size=batch_size)
    agreement = compare_scores(expected, written)
    if not agreement.within(TOLERANCES[dtype]):
        raise TrainingFailed(
            "the merged model says other things than the adapter on its base: log-probabilities "
            f"differ by {agreement.max:.3g} at most, {agreement.mean:.3g} on average",
            remedy="export it in float32, or with --format peft",
        )
    return agreement


def _save(merged: Any, base: Base, stage: Path, dtype: str) -> None:
    """Write weights and configuration, and the base's own tokenizer, byte for byte."""
    import torch

    _need(stage, merged.num_parameters() * _BYTES[dtype])
    with library_errors("writing the merged model"):
        try:
            merged.to(getattr(torch, dtype))
            vars(merged.config).pop("_name_or_path", None)
            merged.save_pretrained(stage)
        except Exception as error:
            if is_disk_full(error):
                raise _disk_full(stage, 0) from error
            raise
    for name in COMPANIONS:
        if (base.path / name).is_file():
            shutil.copyfile(base.path / name, stage / name)


def _load(folder: Path, hardware: Hardware) -> Any:
    from transformers import AutoModelForCausalLM

    with library_errors("reading the merged model"):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=hardware.torch_dtype)
        return model.to(hardware.device).eval()


def _checked_rows(base: Base) -> list[Encoded]:
    encoder = ChatEncoder(load_tokenizer(base), base.id, stop_ids(base))
    return [
        sequence
        for question, answer in CHECKED
        for sequence in encoder.encode(
            Chat(0, (Message("user", question), Message("assistant", answer)))
        )
    ]


def _need(folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < wanted + _SPARE_BYTES:
        raise _disk_full(folder, wanted + _SPARE_BYTES)


def _disk_full(folder: Path, needed: int) -> DiskFull:
    free = shutil.disk_usage(folder).free
    return DiskFull(
        f"{needed / 1e6:.0f} MB are needed in {folder}, {free / 1e6:.0f} MB are free"
        if needed
        else f"no space left in {folder}; nothing was left there",
        needed=needed,
        free=free,
        remedy="free some space, or name a folder on a larger disk",
    )
