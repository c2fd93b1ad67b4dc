"""What is evaluated: a published version, the rows it is asked, the examples of its baseline."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from registry import Base, LorikeetError, RegistrySettings, UsageError, Version, resolve_base
from train.data.chat import Chat
from train.data.parts import Part, read_data, read_own, read_part, sample, unasked
from train.errors import DataError, UnknownRun
from train.evaluation.scores import choose_examples
from train.progress import Reporter, SilentReporter
from train.runs.folder import RunFolder
from train.runs.inputs import digest_of, same_data
from train.settings import TrainSettings
from train.settings_file import settings_of


@dataclass(frozen=True)
class Subject:
    """A version with its base, the settings it was trained with, and what to ask.

    `sha256` is the digest of the held-out rows' file, `training` what is left on this machine of
    the rows that the version was trained on.
    """

    version: Version
    base: Base
    settings: TrainSettings
    held_out: Part
    sha256: str
    examples: tuple[Chat, ...]
    training: Sequence[Chat] = ()


@dataclass(frozen=True)
class Rows:
    """Where the rows come from: files, or else the run that made the version.

    `shots` is the most examples in the few-shot prompt, 0 for none, None for as many as in the run;
    `most` the most held-out rows, drawn by the settings' seed.
    """

    data: Path | None = None
    examples: Path | None = None
    shots: int | None = None
    most: int | None = None


def find_subject(
    version: Version,
    rows: Rows,
    registry_settings: RegistrySettings,
    reporter: Reporter,
    base: str | None = None,
) -> Subject:
    """Everything that an evaluation of `version` needs, read and checked.

    Raises UsageError where there are no held-out rows or the base is another one, and what reading
    rows and bases raises.
    """
    settings = settings_of(version.manifest.training)
    run = run_of(version, registry_settings)
    if rows.data is not None:
        whole = read_part(rows.data, settings)
    elif run is not None and run.held_out.is_file():
        whole = read_own(run.held_out)
    else:
        raise UsageError(
            f"there are no held-out rows of {version.reference} on this machine",
            remedy="name some that it was not trained on: --data held-out.jsonl",
        )
    held_out = replace(whole, chats=sample(whole.chats, rows.most, settings.seed))
    training = _trained_on(run, settings, reporter)
    return Subject(
        version=version,
        base=find_base(version, registry_settings, reporter, base),
        settings=settings,
        held_out=held_out,
        sha256=digest_of(whole),
        examples=_examples(rows, run, settings, training, held_out, reporter),
        training=training,
    )


def only_unseen(subject: Subject, reporter: Reporter, *, own: bool) -> tuple[Subject, int | None]:
    """The subject without the rows that it was trained on, and how many they were.

    None where that is not known here; of its `own` held-out rows it is. Raises DataError where all
    rows were trained on.
    """
    reference, held_out = subject.version.reference, subject.held_out
    unseen = unasked(held_out.chats, subject.training)
    known = bool(subject.training) or own
    remedy = "give --data rows that were not trained on"
    if not unseen:
        raise DataError(
            f"{reference} was trained on every row of {held_out.path}: it would measure nothing",
            remedy=remedy,
        )
    if not known:
        if subject.version.manifest.data_digest == f"sha256:{subject.sha256}":
            raise DataError(
                f"{reference} was trained on {held_out.path}; which of its rows were held out is "
                "not known here",
                remedy=remedy,
            )
        reporter.note(f"whether {reference} was trained on these rows is not known here")
        return subject, None
    if left_out := len(held_out.chats) - len(unseen):
        count = len(held_out.chats)
        reporter.note(f"{left_out} of {count} held-out rows were trained on: left out")
    return replace(subject, held_out=replace(held_out, chats=unseen)), left_out


def _trained_on(
    run: RunFolder | None, settings: TrainSettings, reporter: Reporter
) -> Sequence[Chat]:
    """The rows that the run was trained on; none where they are gone or not the same any more."""
    data = Path(run.record.data) if run else None
    if run is None or data is None or not data.exists():
        return ()
    try:
        if run.record.eval_data is not None:  # then none of these were held out
            settings = settings.model_copy(update={"eval_fraction": 0.0})
        training, _ = read_data(data, None, settings, SilentReporter().note)
        if not same_data(run, training):
            reporter.note(f"the training rows have changed since: {data.name}")
            return ()
    except LorikeetError as error:
        reporter.note(f"the training rows cannot be read any more: {error.message}")
        return ()
    return training.chats


def _examples(
    rows: Rows,
    run: RunFolder | None,
    settings: TrainSettings,
    training: Sequence[Chat],
    held_out: Part,
    reporter: Reporter,
) -> tuple[Chat, ...]:
    """What the few-shot prompt shows: of a file, of the run's own prompt, of its training rows."""
    shots = settings.few_shot_rows if rows.shots is None else rows.shots
    if not shots:
        return ()
    chosen: Sequence[Chat] = ()
    if rows.examples is not None:
        named = read_part(rows.examples, settings).chats
        shown = unasked(named, held_out.chats)
        chosen = choose_examples(shown, shots)
        if left_out := len(named) - len(shown):
            reporter.note(f"{left_out} rows of {rows.examples.name} are held-out rows: left out")
    else:
        if run is not None and run.few_shot.is_file():
            chosen = unasked(read_own(run.few_shot).chats, held_out.chats)[:shots]
        if len(chosen) < shots and training:
            chosen = choose_examples(unasked(training, held_out.chats), shots)
    if not chosen:
        reporter.note(
            "no few-shot baseline: name training rows to show in its prompt with --examples"
        )
    return tuple(chosen)


def find_base(
    version: Version,
    registry_settings: RegistrySettings,
    reporter: Reporter,
    base: str | None = None,
) -> Base:
    """The base that `version` belongs to, `base` where that is named. Raises UsageError."""
    identity = version.manifest.base
    named = base
    if named is None and (run := run_of(version, registry_settings)) is not None:
        named = run.record.base
    if named is None and identity.revision:
        named = f"{identity.id}@{identity.revision}"
    found = resolve_base(named or identity.id, registry_settings, reporter.making)
    if found.digest != identity.digest:
        raise UsageError(
            f"{version.reference} belongs to another base than {found.id}: {identity.id}, "
            f"{identity.digest[:19]}",
            remedy="name its folder or Hugging Face id with --base",
        )
    return found


def run_of(version: Version, registry_settings: RegistrySettings) -> RunFolder | None:
    """The run that made `version`, where it is on this machine."""
    run = (version.manifest.training or {}).get("run")
    if not isinstance(run, str) or Path(run).name != run:
        return None
    try:
        return RunFolder.open(registry_settings, run)
    except UnknownRun:
        return None
