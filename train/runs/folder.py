"""The folder of a training run: `<home>/runs/<run id>/`.

::

    run.json          who, what, and how it stands; rewritten whole or not at all
    settings.yaml     every setting, for --config
    environment.json  Python, platform, libraries, hardware
    data.json         digests and sizes of the data, and its loss coverage
    held-out.jsonl    the rows that were held out, and
    few-shot.jsonl    the examples of the few-shot prompt, as messages rows
    metrics.jsonl     a line an optimiser step, and a line a measurement of the held-out loss
    checkpoints/      while the run is not done
    epochs/           of a fine-tuning job: the adapters of its last epochs (`train.runs.epochs`)
    adapter/          PEFT's two files, as published
    training.json     the training record, as in the manifest
    evaluation.json   the scores on the held-out rows
    loss.png, report.html

    folder = RunFolder.open(RegistrySettings(), "support-20261124-150103")
    folder.record.status
"""

import json
import platform
import shutil
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any, Literal

import yaml

from registry import RegistrySettings
from registry.files import replacing
from train.data.chat import Chat
from train.errors import RunDamaged, UnknownRun
from train.hardware import Hardware
from train.settings import TrainSettings

Status = Literal["running", "succeeded", "failed", "stopped"]

LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets")
"""The libraries whose versions decide what a run makes."""

_RUN_FILE = "run.json"


@dataclass(frozen=True, slots=True)
class RunRecord:
    """`run.json`: times are ISO 8601 in UTC, `resumed` counts the times it was taken up again.

    `job` is the fine-tuning job that the run is of, whose id it has.
    """

    id: str
    name: str
    base: str
    data: str
    eval_data: str | None = None
    publish: bool = True
    base_digest: str | None = None
    status: Status = "running"
    error: str | None = None
    started_at: str = ""
    finished_at: str | None = None
    version: str | None = None
    resumed: int = 0
    job: str | None = None

    @property
    def held_as(self) -> str:
        """What the lock of the run is named by: jobs of one name may run side by side."""
        return self.job or self.name


class RunFolder:
    """One run's folder; `open` one that is there, or `create` a new one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(
        cls, settings: RegistrySettings, record: RunRecord, train_settings: TrainSettings
    ) -> "RunFolder":
        """A new folder for `record`, whose id becomes `<name>-<date>-<time>`, `-2` on a clash.

        That of a job is the job's, and may be there, if nothing is told of the run in it yet.
        It has settings.yaml and then run.json, so that a run that is there can be resumed. Raises
        OSError.
        """
        now = datetime.now(UTC)
        stem = f"{record.name}-{now:%Y%m%d-%H%M%S}"
        settings.runs.mkdir(parents=True, exist_ok=True)
        attempt = 1
        while True:
            if record.job is not None:
                path = settings.runs / record.job
                path.mkdir(exist_ok=True)
                break
            path = settings.runs / (stem if attempt == 1 else f"{stem}-{attempt}")
            try:
                path.mkdir()
                break
            except FileExistsError:
                attempt += 1
        folder = cls(path)
        folder._write_settings(train_settings)
        started_at = record.started_at or timestamp(now)
        folder.write(replace(record, id=path.name, started_at=started_at))
        return folder

    @classmethod
    def open(cls, settings: RegistrySettings, run: str | Path) -> "RunFolder":
        """The folder of `run`, its id or its path. Raises UnknownRun."""
        for path in (settings.runs / run, Path(run).absolute()):
            if (path / _RUN_FILE).is_file():
                return cls(path)
        raise UnknownRun(
            f"there is no run {str(run)!r} in {settings.runs}",
            remedy="`lorikeet runs list` names those that are there",
        )

    @property
    def id(self) -> str:
        """The run's id, the folder's name."""
        return self.path.name

    @property
    def record(self) -> RunRecord:
        """What `run.json` says now. Raises RunDamaged."""
        file = self.path / _RUN_FILE
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            known = {field.name for field in fields(RunRecord)}
            return RunRecord(**{key: value for key, value in values.items() if key in known})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise RunDamaged(
                f"{file} cannot be read: {error}", remedy="start the training anew"
            ) from error

    def write(self, record: RunRecord) -> None:
        """Replace `run.json`, atomically. Raises OSError."""
        write_json(self.path / _RUN_FILE, asdict(record))

    def update(self, **changes: Any) -> RunRecord:
        """Change fields of `run.json` and return all of it. Raises RunDamaged or OSError."""
        record = replace(self.record, **changes)
        self.write(record)
        return record

    def discard(self) -> None:
        """Delete the folder; run.json goes first, so that what is left of it is no run."""
        (self.path / _RUN_FILE).unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)

    def finish(self, status: Status, **changes: Any) -> RunRecord:
        """Note how the run ended, and when. Raises RunDamaged or OSError."""
        return self.update(status=status, finished_at=timestamp(datetime.now(UTC)), **changes)

    @property
    def settings_file(self) -> Path:
        """Every setting, as YAML."""
        return self.path / "settings.yaml"

    @property
    def environment_file(self) -> Path:
        """Python, platform, libraries and hardware."""
        return self.path / "environment.json"

    @property
    def data_file(self) -> Path:
        """Digests and sizes of the data."""
        return self.path / "data.json"

    @property
    def held_out(self) -> Path:
        """The held-out rows; absent where there are none."""
        return self.path / "held-out.jsonl"

    @property
    def few_shot(self) -> Path:
        """The examples of the few-shot prompt; absent where there are none."""
        return self.path / "few-shot.jsonl"

    @property
    def metrics(self) -> Path:
        """The figures of every step."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints; absent once the run has succeeded."""
        return self.path / "checkpoints"

    @property
    def trackers(self) -> Path:
        """Folder of what experiment trackers write."""
        return self.path / "trackers"

    @property
    def adapter(self) -> Path:
        """Folder of the trained adapter."""
        return self.path / "adapter"

    @property
    def epochs(self) -> Path:
        """Folder of the adapters of a job's last epochs, `step-<n>/`."""
        return self.path / "epochs"

    @property
    def training(self) -> Path:
        """The training record, for the manifest."""
        return self.path / "training.json"

    @property
    def evaluation(self) -> Path:
        """The scores on the held-out rows."""
        return self.path / "evaluation.json"

    @property
    def loss_plot(self) -> Path:
        """The loss as a picture."""
        return self.path / "loss.png"

    @property
    def report(self) -> Path:
        """The report, one HTML file."""
        return self.path / "report.html"

    def _write_settings(self, settings: TrainSettings) -> None:
        values = settings.model_dump(mode="json")
        if settings.few_shot_data is not None:
            values["few_shot_data"] = str(settings.few_shot_data.absolute())
        replace_file(self.settings_file, yaml.safe_dump(values, sort_keys=False))


def environment(hardware: Hardware, processes: int) -> dict[str, Any]:
    """What a run computes with, as environment.json has it."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "lorikeet": _version_of("lorikeet"),
        "libraries": library_versions(),
        "hardware": asdict(hardware),
        "processes": processes,
    }


def library_versions() -> dict[str, str]:
    """The versions of LIBRARIES."""
    return {name: _version_of(name) for name in LIBRARIES}


def list_runs(settings: RegistrySettings) -> list[RunFolder]:
    """The folders of all runs, the newest first; those that cannot be read come last."""

    def age(folder: RunFolder) -> tuple[str, str]:
        try:
            return folder.record.started_at, folder.id
        except RunDamaged:
            return "", folder.id

    folders = [RunFolder(file.parent) for file in settings.runs.glob(f"*/{_RUN_FILE}")]
    return sorted(folders, key=age, reverse=True)


def write_rows(path: Path, chats: Iterable[Chat]) -> None:
    """Write `chats` as messages rows, JSON lines; no file where there are none. Raises OSError."""
    lines = [json.dumps(chat.as_row(), ensure_ascii=False) for chat in chats]
    if lines:
        replace_file(path, "\n".join(lines) + "\n")


def timestamp(moment: datetime) -> str:
    """A moment in UTC as run.json has it, to the second."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file, atomically. Raises OSError."""
    replace_file(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def replace_file(path: Path, text: str) -> None:
    """Put a text in the place of `path`, durably, whole or not at all. Raises OSError."""
    with replacing(path) as file:
        file.write(text.encode())


def _version_of(distribution: str) -> str:
    try:
        return installed_version(distribution)
    except PackageNotFoundError:
        return "unknown"
