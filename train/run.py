"""One training run from a data file to a published version.

settings → rows → held-out rows → base → train → evaluate → publish

Each run has a folder (`train.runs.folder`) and can be resumed from it.
"""

from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
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
)
from registry.disk import translated
from train import trainer
from train.base_model import load_base
from train.errors import Interrupted, NothingToResume, RunDamaged
from train.evaluation.comparison import Evaluation
from train.evaluation.scorer import Scorer
from train.inputs import Inputs, read_inputs
from train.processes import Processes, launched
from train.progress import Reporter, SilentReporter
from train.runs.checkpoints import Checkpoints
from train.runs.epochs import Epochs, whole_folder
from train.runs.folder import (
    RunFolder,
    RunRecord,
    environment,
    timestamp,
    write_json,
    write_rows,
)
from train.runs.inputs import check_environment, check_unchanged, lasting
from train.runs.lock import hold_name
from train.runs.metrics import Metrics
from train.runs.outcome import recorded
from train.runs.recorder import Asked, never
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
    job: str | None = None
    """The fine-tuning job that this is: the run has its id, and keeps the last epochs' adapters."""
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


def run(
    request: TrainRequest, reporter: Reporter | None = None, *, asked_to_stop: Asked = never
) -> TrainResult:
    """Train, evaluate and publish; raise a LorikeetError, and publish nothing, where that fails.

    Ctrl-C raises Interrupted; so does, after the step and its checkpoint, being asked to stop. What
    was trained by then stays in the run's folder, for `resume`.
    """
    check_name(request.name)
    if request.name == str(request.base):
        raise UsageError(
            f"an adapter cannot be named like its base, {request.name}",
            remedy="choose another --name",
        )
    return _run(request, None, reporter or SilentReporter(), asked_to_stop)


def resume(
    run: str | Path,
    registry_settings: RegistrySettings | None = None,
    reporter: Reporter | None = None,
    *,
    asked_to_stop: Asked = never,
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
        job=record.job,
        registry_settings=registry_settings,
    )
    return _run(request, folder, reporter or SilentReporter(), asked_to_stop)


def _run(
    request: TrainRequest, resumed: RunFolder | None, reporter: Reporter, asked_to_stop: Asked
) -> TrainResult:
    processes = launched()
    check_trackers(request.settings)
    held_as = request.job or request.name
    begun = datetime.now(UTC).replace(microsecond=0)
    if resumed is not None:
        begun = datetime.fromisoformat(resumed.record.started_at)
    with ExitStack() as stack, _writing(request):
        try:
            folder = None
            if processes.is_first:
                lock = stack.enter_context(hold_name(request.registry_settings, held_as))
            inputs = read_inputs(
                request.data,
                request.eval_data,
                request.base,
                request.settings,
                request.registry_settings,
                processes,
                reporter,
                begun,
            )
            if processes.is_first:
                folder = _folder(request, resumed, inputs, processes, reporter, begun)
                lock.announce(folder.id)
            folder = RunFolder(processes.tell(folder.path if folder else Path()))
        except KeyboardInterrupt:
            raise Interrupted(
                "stopped; nothing was trained", remedy="run the same command to start again"
            ) from None
        if not processes.is_first:
            trained = _train(request, folder, inputs, reporter, asked_to_stop)
            record = training_record(
                folder.id, request.settings, inputs.hardware, len(inputs.rows), trained
            )
            return TrainResult(request.name, inputs.base.id, folder.path, None, record, None)
        with recorded(folder, reporter), _writing(request):
            return _finish(request, folder, inputs, processes, reporter, asked_to_stop)


def _writing(request: TrainRequest) -> AbstractContextManager[None]:
    """What the operating system refuses is a DiskFull or RegistryUnavailable."""
    return translated(request.registry_settings, "the run cannot be written")


def _folder(
    request: TrainRequest,
    resumed: RunFolder | None,
    inputs: Inputs,
    processes: Processes,
    reporter: Reporter,
    begun: datetime,
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
                job=request.job,
                started_at=timestamp(begun),
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
    request: TrainRequest,
    folder: RunFolder,
    inputs: Inputs,
    reporter: Reporter,
    asked_to_stop: Asked,
) -> trainer.Trained:
    model = load_base(inputs.base, request.settings, inputs.hardware)
    epochs = None
    if request.job:
        epochs = Epochs(
            folder,
            request.settings.epochs,
            lambda model, into: trainer.save_adapter(model, inputs.base, into),
        )
    return trainer.train_adapter(
        model,
        inputs.tokenizer,
        inputs.sequences,
        request.settings,
        inputs.hardware,
        reporter.step,
        held_out=inputs.held_out_sequences,
        run=folder,
        on_epoch=epochs.keep if epochs else None,
        asked_to_stop=asked_to_stop,
    )


def _finish(
    request: TrainRequest,
    folder: RunFolder,
    inputs: Inputs,
    processes: Processes,
    reporter: Reporter,
    asked_to_stop: Asked,
) -> TrainResult:
    settings, data = request.settings, inputs.data["data"]
    latest = Checkpoints(folder.checkpoints).latest()
    reporter.note(f"run {folder.id}" + (f", resumed after step {latest.step}" if latest else ""))
    reporter.note(
        f"training {request.name} on {inputs.base.id} ({settings.quantization}, "
        f"{inputs.hardware.dtype}, {inputs.hardware.device}): {data['rows']} rows, "
        f"{data['tokens']:,} tokens, {data['trained_tokens']:,} of them in the loss"
    )
    trained = _train(request, folder, inputs, reporter, asked_to_stop)
    if trained.best is not None:
        reporter.note(
            f"the checkpoint of step {trained.best.step} is kept: of "
            f"{trained.best.measurements} it has the lowest held-out loss"
        )
    _save(trained, inputs.base, folder)
    if asked_to_stop():
        raise KeyboardInterrupt
    evaluation = None
    if inputs.held_out and processes.sharded:
        reporter.note(f"not evaluated, the model is in shards: lorikeet eval {request.name}")
    elif inputs.held_out:
        evaluation = Scorer(
            trained.model, inputs.tokenizer, inputs.encoder, inputs.held_out, settings, reporter
        ).run(inputs.examples)
        _keep(folder, trained, evaluation)
    record = training_record(folder.id, settings, inputs.hardware, len(inputs.rows), trained)
    write_json(folder.training, record)
    version = _publish(request, folder, inputs, record, evaluation) if request.publish else None
    folder.finish("succeeded", version=version.reference if version else None)
    Checkpoints(folder.checkpoints).clear()
    return TrainResult(request.name, inputs.base.id, folder.path, version, record, evaluation)


def _save(trained: trainer.Trained, base: Base, folder: RunFolder) -> None:
    """Write the run's `adapter/`."""
    with whole_folder(folder.adapter) as partial:
        trainer.save_adapter(trained.model, base, partial, trained.state)


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
    inputs: Inputs,
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
