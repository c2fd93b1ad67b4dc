"""The server as a Ray Serve application, for a Ray cluster that is there.

    serve run deploy.ray_serve:app                     # settings from LORIKEET_SERVE_*
    serve run deploy.ray_serve:app replicas=4 max_loras=16

Every machine of the cluster needs Lorikeet, LORIKEET_DATABASE_URL and LORIKEET_STORE_URL. On one
machine `lorikeet serve --replicas N` starts Ray too.
"""

from ray.serve.deployment import Application

from deploy.replicas.application import application
from registry import Registry, RegistrySettings, UsageError, resolve_base
from serve.settings import ServeSettings


def app(arguments: dict[str, str]) -> Application:
    """Built by Ray Serve; `arguments` are fields of ServeSettings, and go before the environment.

    Raises: ValidationError, LorikeetError where the base cannot be had, UsageError where anybody
    could use the cluster.
    """
    settings = ServeSettings.model_validate(ServeSettings().model_dump() | arguments)
    places = RegistrySettings()
    with Registry.open(places) as registry:
        if not (settings.insecure or registry.keys.exist()):
            raise UsageError(
                "a cluster can be reached from other machines, and there are no keys",
                remedy="make one (lorikeet keys create --tenant NAME), or say insecure=true",
            )
    return application(settings, resolve_base(settings.base, places).id)
