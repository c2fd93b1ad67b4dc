"""One training run from a data file to a published version.

settings → rows → held-out rows → base → train → evaluate → publish

Each run has a folder (`train.runs.folder`) and can be resumed from it.
"""

import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field
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
from registry.plain_template import PLAIN_NOTE
from train import trainer
from train.answer_trainer import optimiser
from train.base_model import load_base, load_tokenizer, stop_ids
from train.data.chat import Chat
from train.data.coverage import Coverage, coverage_of
from train.data.masking import ChatEncoder, Encoded, EncodedChat, encode_chats
from train.data.parts import Part, few_shot_examples, read_data
from train.data.rejected import Rejected
from train.errors import Interrupted, NothingToResume, RunDamaged, SettingsError
from train.evaluation.comparison import Evaluation
from train.evaluation.scorer import Scorer
from train.hardware import Hardware, detect
from train.processes import Processes, launched
from train.progress import Reporter, SilentReporter
from train.runs.checkpoints import Checkpoints
from train.runs.folder import RunFolder, RunRecord, environment, write_json, write_rows
from train.runs.inputs import check_environment, check_unchanged, describe, lasting
from train.runs.lock import hold_name
from train.runs.metrics import Metrics
from train.runs.outcome import recorded
from train.settings import TrainSettings
from train.settings_file import load_settings
from train.trackers import check_trackers
from train.training_record import training_record


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
    run: Path
    version: Version | None
    training: dict[str, Any]
    evaluation: Evaluation | None

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "name": self.name,
            "base": self.base,
            "run": self.run.name,
            "run_path": str(self.run),
            "version": self.version.reference if self.version else None,
            "path": str(self.version.path) if self.version else None,
            "training": self.training,
            "evaluation": self.evaluation.as_dict() if self.evaluation else None,
        }


@dataclass(frozen=True)
class _Inputs:
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


def run(request: TrainRequest, reporter: Reporter | None = None) -> TrainResult:
    """Train, evaluate and publish; raise a LorikeetError, and publish nothing, where that fails.

    Ctrl-C raises Interrupted. What was trained by then stays in the run's folder, for `resume`.
    """
    check_name(request.name)
    if request.name == str(request.base):
        raise UsageError(
            f"an adapter cannot be named like its base, {request.name}",
            remedy="choose another --name",
        )
    return _run(request, None, reporter or SilentReporter())


def resume(
    run: str | Path,
    registry_settings: RegistrySettings | None = None,
    reporter: Reporter | None = None,
) -> TrainResult:
    """Go on with a run, by its id or folder, after its last checkpoint, and end as `run` does.

    The settings are the run's. Raises UnknownRun, NothingToResume for one that has succeeded, and
    RunChanged where data or base are not what they were.
    """
    registry_settings = registry_settings or RegistrySettings()
    folder = RunFolder.open(registry_settings, run)
    record = folder.record
    if record.status == "succeeded":
        published = f", {record.version}" if record.version else ""
        raise NothingToResume(
            f"run {folder.id} has succeeded{published}", remedy="start a new run with --data"
        )
    if not folder.settings_file.is_file():
        raise RunDamaged(f"{folder.settings_file} is missing", remedy="start a new run")
    request = TrainRequest(
        data=Path(record.data),
        name=record.name,
        base=record.base,
        settings=load_settings(folder.settings_file),
        eval_data=Path(record.eval_data) if record.eval_data else None,
        publish=record.publish,
        registry_settings=registry_settings,
    )
    return _run(request, folder, reporter or SilentReporter())


def _run(request: TrainRequest, resumed: RunFolder | None, reporter: Reporter) -> TrainResult:
    processes = launched()
    check_trackers(request.settings)
    with ExitStack() as stack:
        try:
            folder = None
            if processes.is_first:
                lock = stack.enter_context(hold_name(request.registry_settings, request.name))
            inputs = _read(request, processes, reporter)
            if processes.is_first:
                folder = _folder(request, resumed, inputs, processes, reporter)
                lock.announce(folder.id)
            folder = RunFolder(processes.tell(folder.path if folder else Path()))
        except KeyboardInterrupt:
            raise Interrupted(
                "stopped; nothing was trained", remedy="run the same command to start again"
            ) from None
        if not processes.is_first:
            trained = _train(request, folder, inputs, reporter)
            record = training_record(
                folder.id, request.settings, inputs.hardware, len(inputs.rows), trained
            )
            return TrainResult(request.name, inputs.base.id, folder.path, None, record, None)
        with recorded(folder, reporter):
            return _finish(request, folder, inputs, processes, reporter)


def _read(request: TrainRequest, processes: Processes, reporter: Reporter) -> _Inputs:
    """Read and check data, hardware and base; nothing is written."""
    settings = request.settings
    training, held_out = read_data(request.data, request.eval_data, settings, reporter.note)
    if settings.early_stopping and not held_out.chats:
        raise SettingsError(["early_stopping: there are no held-out rows to measure the loss on"])
    examples = few_shot_examples(settings, training) if held_out.chats else ()
    hardware = detect(settings)
    optimiser(settings, hardware)
    if processes.is_first:  # the others find it made
        resolve_base(request.base, request.registry_settings, reporter.making)
    processes.tell(None)
    base = resolve_base(request.base, request.registry_settings)
    tokenizer = load_tokenizer(base)
    encoder = ChatEncoder(tokenizer, base.id, stop_ids(base))
    if encoder.plain:
        reporter.note(f"{base.id} {PLAIN_NOTE}")
    rows = _encode(training, encoder, settings, reporter)
    held_out_rows = _encode(held_out, encoder, settings, reporter)
    return _Inputs(
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


def _folder(
    request: TrainRequest,
    resumed: RunFolder | None,
    inputs: _Inputs,
    processes: Processes,
    reporter: Reporter,
) -> RunFolder:
    """The run's folder, new or taken up again, with what it is made of written into it."""
    now = environment(inputs.hardware, processes.count)
    if resumed is None:
        folder = RunFolder.create(
            request.registry_settings,
            RunRecord(
                id="",
                name=request.name,
                base=lasting(request.base),
                base_digest=inputs.base.digest,
                data=lasting(request.data),
                eval_data=lasting(request.eval_data) if request.eval_data else None,
                publish=request.publish,
            ),
            request.settings,
        )
    else:
        folder = resumed
        check_unchanged(folder, inputs.data, inputs.base.digest)
        for change in check_environment(folder, now):
            reporter.note(f"{change}: the adapter may differ from an uninterrupted run's")
        record = folder.record
        folder.update(status="running", error=None, finished_at=None, resumed=record.resumed + 1)
    write_json(folder.environment_file, now)
    write_rows(folder.held_out, [row.chat for row in inputs.held_out])
    write_rows(folder.few_shot, inputs.examples)
    write_json(folder.data_file, inputs.data)
    return folder


def _train(
    request: TrainRequest, folder: RunFolder, inputs: _Inputs, reporter: Reporter
) -> trainer.Trained:
    model = load_base(inputs.base, request.settings, inputs.hardware)
    return trainer.train_adapter(
        model,
        inputs.tokenizer,
        inputs.sequences,
        request.settings,
        inputs.hardware,
        reporter.step,
        held_out=inputs.held_out_sequences,
        run=folder,
    )


def _finish(
    request: TrainRequest,
    folder: RunFolder,
    inputs: _Inputs,
    processes: Processes,
    reporter: Reporter,
) -> TrainResult:
    settings, data = request.settings, inputs.data["data"]
    latest = Checkpoints(folder.checkpoints).latest()
    reporter.note(f"run {folder.id}" + (f", resumed after step {latest.step}" if latest else ""))
    reporter.note(
        f"training {request.name} on {inputs.base.id} ({settings.quantization}, "
        f"{inputs.hardware.dtype}, {inputs.hardware.device}): {data['rows']} rows, "
        f"{data['tokens']:,} tokens, {data['trained_tokens']:,} of them in the loss"
    )
    trained = _train(request, folder, inputs, reporter)
    if trained.best is not None:
        reporter.note(
            f"the checkpoint of step {trained.best.step} is kept: of "
            f"{trained.best.measurements} it has the lowest held-out loss"
        )
    _save(trained, inputs.base, folder)
    evaluation = None
    if inputs.held_out and processes.sharded:
        reporter.note(f"not evaluated, the model is in shards: lorikeet eval {request.name}")
    elif inputs.held_out:
        evaluation = Scorer(
            trained.model, inputs.tokenizer, inputs.encoder, inputs.held_out, settings, reporter
        ).run(inputs.examples)
        _keep(folder, trained, evaluation)
    record = training_record(folder.id, settings, inputs.hardware, len(inputs.rows), trained)
    version = _publish(request, folder, inputs, record, evaluation) if request.publish else None
    folder.finish("succeeded", version=version.reference if version else None)
    Checkpoints(folder.checkpoints).clear()
    return TrainResult(request.name, inputs.base.id, folder.path, version, record, evaluation)


def _save(trained: trainer.Trained, base: Base, folder: RunFolder) -> None:
    """Write the run's `adapter/`, whole or not at all."""
    partial = folder.path / ".adapter.partial"
    for path in (partial, folder.adapter):
        shutil.rmtree(path, ignore_errors=True)
    partial.mkdir()
    trainer.save_adapter(trained.model, base, partial, trained.state)
    partial.rename(folder.adapter)


def _keep(folder: RunFolder, trained: trainer.Trained, evaluation: Evaluation) -> None:
    """Write evaluation.json, and its loss among the metrics where none was measured there."""
    write_json(folder.evaluation, evaluation.as_dict())
    metrics = Metrics(folder.metrics)
    loss = evaluation.adapter.loss
    if loss is not None and trained.steps not in metrics.held_out():
        metrics.append({"step": trained.steps, "held_out_loss": loss})


def _publish(
    request: TrainRequest,
    folder: RunFolder,
    inputs: _Inputs,
    record: dict[str, Any],
    evaluation: Evaluation | None,
) -> Version:
    with Registry.open(request.registry_settings) as registry:
        for version in registry.list() if folder.record.resumed else ():
            # It was killed between publishing and saying so.
            training = version.manifest.training or {}
            if version.name == request.name and training.get("run") == folder.id:
                return version
        return registry.publish(
            folder.adapter,
            request.name,
            base=inputs.base,
            origin="train",
            training=record,
            data_digest=f"sha256:{inputs.data['data']['sha256']}",
            evaluation=evaluation.as_dict() if evaluation else None,
        )
