"""Clearing away what nobody will ask for again."""

import logging

from registry import LorikeetError, Registry, UnknownAdapter
from train.errors import RunDamaged, UnknownRun
from train.runs.folder import RunFolder
from train.worker.order import JobFolder

logger = logging.getLogger(__name__)


def clear_away(registry: Registry, job_id: str) -> None:
    """Delete what a cancelled job has left: its folders, and a version that has no name yet.

    The checkpoints that were published stay: they can be asked for.
    """
    settings = registry.settings
    run = RunFolder(settings.runs / job_id)
    try:
        version = RunFolder.open(settings, run.path).record.version
        if version is not None:
            _remove_nameless(registry, version, job_id)
    except (UnknownRun, RunDamaged, UnknownAdapter):
        pass
    except LorikeetError as error:
        logger.warning("%s: %s", job_id, error)
    run.discard()
    JobFolder(settings, job_id).remove()


def sweep(registry: Registry) -> None:
    """Clear away after cancelled jobs that no living worker has, and orphaned files.

    Raises RegistryUnavailable or DiskFull.
    """
    settings = registry.settings
    registry.queue.forget_dead()
    for folder in (settings.home / "jobs").glob("*"):
        try:
            job = registry.jobs.get(None, folder.name)
        except LorikeetError:  # another database's, or no job's at all
            continue
        if job.status == "cancelled" and job.worker is None:
            clear_away(registry, job.id)
    registry.files.sweep()


def _remove_nameless(registry: Registry, reference: str, job_id: str) -> None:
    version = registry.get(reference)
    named = any(
        (model.adapter, model.number) == (version.name, version.number)
        for model in registry.models.list(None)
    )
    if not named and (version.manifest.training or {}).get("job") == job_id:
        registry.remove(version.name, version.number)
