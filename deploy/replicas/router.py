"""Ray Serve's request router by adapter: it asks `serve.affinity` which replica is first."""

import random
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from serve.affinity import ranked

READY, RANK = "ready", "rank"
"""What replicas tell their routers: whether their engine answers, and their place among all."""


class AffinityRouter(RequestRouter):  # type: ignore[misc]  # it has no types
    """Ranks the replicas for each request; the model id of a request is its adapter.

    Replicas are known by their ranks, which their successors inherit: one that dies or is upgraded
    moves no adapter between the others. A replica whose engine is being started again comes last.
    """

    def initialize_state(self, **options: Any) -> None:
        """`room` as `serve.affinity.ranked` has it."""
        self._room: int = options["room"]

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """One replica a rank, so that the next is tried where one does not take the request."""
        adapter = None
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
            adapter = pending_request.metadata.multiplexed_model_id or None
        replicas = _named(candidate_replicas)
        names = random.sample(list(replicas), len(replicas))
        cache = self.replica_queue_len_cache
        loads = {name: cache.get(replicas[name].replica_id) or 0 for name in names}
        order = [replicas[name] for name in ranked(adapter, loads, self._room)]
        order.sort(key=lambda replica: not replica.routing_stats.get(READY, True))
        return [[replica] for replica in order]


def _named(candidates: list[RunningReplica]) -> dict[str, RunningReplica]:
    """The replicas by their ranks; the second of a rank, while one succeeds another, by its id."""
    named: dict[str, RunningReplica] = {}
    for replica in candidates:
        unique = replica.replica_id.unique_id
        rank = str(replica.replica_metadata.get(RANK, unique))
        named[unique if rank in named else rank] = replica
    return named
