"""The server as a Ray Serve application, for a Ray cluster that is there.

    serve run deploy.ray_serve:app                     # settings from LORIKEET_SERVE_*
    serve run deploy.ray_serve:app replicas=4 max_loras=16

Every machine of the cluster needs Lorikeet, LORIKEET_DATABASE_URL and LORIKEET_STORE_URL. On one
machine `lorikeet serve --replicas N` starts Ray too.
"""

from ray.serve.deployment import Application

from deploy.replicas.application import application
from registry import RegistrySettings, resolve_base
from serve.settings import ServeSettings


def app(arguments: dict[str, str]) -> Application:
    """Built by Ray Serve; `arguments` are fields of ServeSettings, and go before the environment.

    Raises: ValidationError, LorikeetError where the base cannot be had.
    """
    settings = ServeSettings.model_validate(ServeSettings().model_dump() | arguments)
    return application(settings, resolve_base(settings.base, RegistrySettings()).id)
