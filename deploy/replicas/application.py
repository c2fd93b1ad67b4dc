"""Settings to a Ray Serve application: the deployments, their sizes and their bounds."""

import math
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.deployment import Application
from ray.serve.request_router import RequestRouter
from ray.serve.schema import LoggingConfig

from deploy.replicas.ingress import Ingress
from deploy.replicas.keeper import Keeper
from deploy.replicas.replica import Replica
from deploy.replicas.router import AffinityRouter
from serve.engine.environment import built_for_cpu
from serve.settings import ServeSettings

REPLICAS_AN_INGRESS = 4
SPARE_REQUESTS = 64
"""Of a replica, beside those that its own admission seats and queues: probes, admin, files."""
MANY = 100_000
"""No bound of Ray Serve's: a replica's own are exact, fair and told to the client."""
END_SECONDS = 10
"""For a replica to end after its answers have."""
START_ATTEMPTS = 3
LOGGING = LoggingConfig(log_level="WARNING", enable_access_log=False)
"""Ray Serve's own lines, which go where the server's go: requests have a line already."""


def application(
    settings: ServeSettings, base: str, router: type[RequestRouter] = AffinityRouter
) -> Application:
    """Replicas behind an ingress; `base` is the base model's id."""
    keeper = serve.deployment(Keeper).options(
        num_replicas=1,
        max_ongoing_requests=MANY,
        ray_actor_options={"num_cpus": 0},
        health_check_period_s=1,
        logging_config=LOGGING,
    )
    replicas = serve.deployment(Replica).options(
        **_size(settings),
        max_ongoing_requests=settings.max_num_seqs + settings.max_queue + SPARE_REQUESTS,
        ray_actor_options=resources(settings),
        request_router_config=RequestRouterConfig(
            request_router_class=router,
            request_router_kwargs={"room": _room(settings)},
            request_routing_stats_period_s=1,
        ),
        graceful_shutdown_timeout_s=settings.drain_seconds + END_SECONDS,
        graceful_shutdown_wait_loop_s=0.1,
        health_check_period_s=1,
        logging_config=LOGGING,
        max_constructor_retry_count=START_ATTEMPTS,
    )
    ingress = serve.deployment(serve.ingress()(Ingress)).options(
        name="Ingress",
        num_replicas=math.ceil(settings.most_replicas / REPLICAS_AN_INGRESS),
        max_ongoing_requests=MANY,
        ray_actor_options={"num_cpus": 0},
        # Requests that end with their replica wait in another, or are told so.
        graceful_shutdown_timeout_s=settings.queue_seconds
        + 2 * (settings.drain_seconds + END_SECONDS),
        graceful_shutdown_wait_loop_s=0.1,
        health_check_period_s=1,
        logging_config=LOGGING,
    )
    return ingress.bind(settings, base, replicas.bind(settings, keeper.bind()))


def _size(settings: ServeSettings) -> dict[str, Any]:
    """A fixed number of replicas, or as many as the requests need: each has its room taken."""
    if settings.max_replicas is None:
        return {"num_replicas": settings.replicas}
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=settings.replicas,
            max_replicas=settings.max_replicas,
            target_ongoing_requests=_room(settings),
            upscale_delay_s=settings.upscale_seconds,
            downscale_delay_s=settings.downscale_seconds,
        )
    }


def _room(settings: ServeSettings) -> int:
    """Requests that a replica runs at once, whatever adapters they are for."""
    return min(settings.max_num_seqs, settings.max_loras)


def resources(settings: ServeSettings) -> dict[str, float]:
    """Of one replica, as Ray counts: the installed vLLM says whether its workers need GPUs.

    Where vLLM places its workers by Ray, it asks for their GPUs itself.
    """
    if settings.engine == "echo":
        return {"num_cpus": 0}
    if built_for_cpu() or settings.distributed_executor_backend == "ray":
        return {"num_cpus": 1}
    return {"num_cpus": 1, "num_gpus": settings.workers}
