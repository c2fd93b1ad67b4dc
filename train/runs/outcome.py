"""How a run ends, written into its folder whatever happens: status, picture, report."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from train.errors import Interrupted, LossNotFinite, RunDamaged
from train.progress import Reporter
from train.runs.checkpoints import Checkpoints
from train.runs.folder import RunFolder, Status
from train.runs.plot import write_loss_plot
from train.runs.report import write_report


@contextmanager
def recorded(folder: RunFolder, reporter: Reporter) -> Iterator[None]:
    """Note in run.json how the body ended, with the plot and the report; what it raised passes.

    Ctrl-C becomes Interrupted, which says how to go on. Of LossNotFinite the remedy names the
    checkpoint that stays.
    """
    try:
        yield
        ended: Status = "succeeded"
    except KeyboardInterrupt:
        _finish(folder, "stopped", None)
        raise Interrupted(
            f"run {folder.id} is stopped; nothing was published",
            remedy=f"go on{_where(folder)} with: lorikeet train --resume {folder.id}",
        ) from None
    except LossNotFinite as error:
        _finish(folder, "failed", error.message)
        latest = Checkpoints(folder.checkpoints).latest()
        if latest is not None and error.remedy is not None:
            path = Checkpoints(folder.checkpoints).path(latest.step)
            error.remedy += f"; the last good checkpoint, of step {latest.step}, is {path}"
        raise
    except BaseException as error:
        _finish(folder, "failed", str(error) or type(error).__name__)
        raise
    else:
        assert folder.record.status == ended, "the body notes the version with its success"
    finally:
        _report(folder, reporter)


def _finish(folder: RunFolder, status: Status, error: str | None) -> None:
    with suppress(OSError, RunDamaged):  # a full disk must not hide the error that filled it
        folder.finish(status, error=error)


def _where(folder: RunFolder) -> str:
    latest = Checkpoints(folder.checkpoints).latest()
    return f" after step {latest.step}" if latest else " from the start"


def _report(folder: RunFolder, reporter: Reporter) -> None:
    """The plot and the report; a run is not lost because they cannot be made."""
    try:
        if folder.metrics.is_file():
            write_loss_plot(folder.metrics, folder.loss_plot)
        write_report(folder.path)
    except Exception as error:
        reporter.note(f"no report was written: {type(error).__name__}: {error}")
