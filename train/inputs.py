"""What a run computes with, read and checked before anything is written."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from registry import Base, RegistrySettings, resolve_base
from registry.plain_template import PLAIN_NOTE
from train.answer_trainer import optimiser
from train.base_model import load_tokenizer, stop_ids
from train.data.chat import Chat
from train.data.coverage import Coverage, coverage_of
from train.data.masking import DATED_NOTE, ChatEncoder, Encoded, EncodedChat, encode_chats
from train.data.parts import Part, few_shot_examples, read_data
from train.data.rejected import Rejected
from train.errors import SettingsError
from train.hardware import Hardware, detect
from train.processes import Processes
from train.progress import Reporter
from train.runs.inputs import describe
from train.settings import TrainSettings


@dataclass(frozen=True)
class Inputs:
    """All that a run computes with, checked, before its folder is made."""

    base: Base
    hardware: Hardware
    tokenizer: Any
    encoder: ChatEncoder
    rows: list[EncodedChat]
    held_out: list[EncodedChat]
    examples: tuple[Chat, ...]
    data: dict[str, Any]

    @property
    def sequences(self) -> list[Encoded]:
        return [sequence for row in self.rows for sequence in row.sequences]

    @property
    def held_out_sequences(self) -> list[Encoded]:
        return [sequence for row in self.held_out for sequence in row.sequences]


def read_inputs(
    data: Path,
    eval_data: Path | None,
    base_place: str | Path,
    settings: TrainSettings,
    registry_settings: RegistrySettings,
    processes: Processes,
    reporter: Reporter,
    begun: datetime,
) -> Inputs:
    """Read and check data, hardware and base; nothing is written. Raises LorikeetError.

    `begun` is when the run began: what its chat template tells of the time.
    """
    training, held_out = read_data(data, eval_data, settings, reporter.note)
    if settings.early_stopping and not held_out.chats:
        raise SettingsError(["early_stopping: there are no held-out rows to measure the loss on"])
    examples: tuple[Chat, ...] = ()
    if held_out.chats:
        examples = few_shot_examples(settings, training, held_out, reporter.note)
    hardware = detect(settings)
    optimiser(settings, hardware, processes)
    if processes.is_first:  # the others find it made
        resolve_base(base_place, registry_settings, reporter.making)
    begun = processes.tell(begun)
    base = resolve_base(base_place, registry_settings)
    tokenizer = load_tokenizer(base)
    encoder = ChatEncoder(tokenizer, base.id, stop_ids(base), begun)
    if encoder.plain:
        reporter.note(f"{base.id} {PLAIN_NOTE}")
    if encoder.dated:
        reporter.note(f"{base.id} {DATED_NOTE}")
    rows = _encode(training, encoder, settings, reporter)
    held_out_rows = _encode(held_out, encoder, settings, reporter)
    return Inputs(
        base=base,
        hardware=hardware,
        tokenizer=tokenizer,
        encoder=encoder,
        rows=rows,
        held_out=held_out_rows,
        examples=examples,
        data={
            "data": describe(training, rows),
            "held_out": describe(held_out, held_out_rows) if held_out_rows else None,
            "coverage": _coverage(training, rows, encoder, tokenizer, settings).as_dict(),
        },
    )


def _encode(
    part: Part, encoder: ChatEncoder, settings: TrainSettings, reporter: Reporter
) -> list[EncodedChat]:
    rows = encode_chats(
        encoder,
        part.chats,
        part.path,
        max_length=settings.max_length,
        drop_long=settings.too_long == "drop",
        allow_drift=settings.template_drift == "allow",
    )
    if drifting := sum(row.drift is not None for row in rows):
        reporter.note(
            f"{drifting} rows of {part.path.name} train token ids that the server will not make "
            "(template_drift=allow): `lorikeet data check` shows where"
        )
    if dropped := len(part.chats) - len(rows):
        reporter.note(
            f"{dropped} rows of {part.path.name} are longer than {settings.max_length} tokens: "
            "left out"
        )
    return rows


def _coverage(
    part: Part,
    rows: list[EncodedChat],
    encoder: ChatEncoder,
    tokenizer: Any,
    settings: TrainSettings,
) -> Coverage:
    kept = {row.chat.line for row in rows}
    return coverage_of(
        rows,
        [
            Rejected(chat.line, "left out", f"at most {settings.max_length} tokens", "too_long")
            for chat in part.chats
            if chat.line not in kept
        ],
        max_length=settings.max_length,
        bos_id=tokenizer.bos_token_id,
        stop_ids=encoder.stop_ids,
    )
