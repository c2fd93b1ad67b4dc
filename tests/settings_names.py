"""The environment variables that Lorikeet reads."""

from registry import RegistrySettings
from serve.settings import ServeSettings
from train.worker.settings import WorkerSettings


def known_variables() -> set[str]:
    """Of the registry, the server and the worker."""
    return {
        f"{settings.model_config['env_prefix']}{field}".upper()
        for settings in (RegistrySettings, ServeSettings, WorkerSettings)
        for field in settings.model_fields
    }
