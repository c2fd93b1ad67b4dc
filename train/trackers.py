"""Experiment trackers that a run may report to; none of them is installed with Lorikeet."""

from importlib.util import find_spec

from train.errors import SettingsError
from train.settings import TrainSettings

_PACKAGES = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
}


def check_trackers(settings: TrainSettings) -> None:
    """Raise SettingsError for each tracker of `report_to` whose package is not installed."""
    missing = [
        tracker
        for tracker in settings.report_to
        if not any(find_spec(package) for package in _PACKAGES[tracker])
    ]
    if missing:
        raise SettingsError(
            [f"report_to={tracker}: not installed; pip install {tracker}" for tracker in missing]
        )
