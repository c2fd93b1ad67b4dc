"""Ray Serve's request router by adapter: it asks `serve.affinity` which replica is first."""

import random
from typing import Any

from ray.serve.request_router import (
    PendingRequest,
    ReplicaID,
    ReplicaResult,
    RequestRouter,
    RunningReplica,
)

from serve.affinity import ranked

READY, RANK = "ready", "rank"
"""What replicas tell their routers: whether their engine answers, and their place among all."""


class AffinityRouter(RequestRouter):  # type: ignore[misc]  # it has no types
    """Ranks the replicas for each request; the first argument of `Replica.answer` is its adapter.

    Not Ray's model id of a request: Ray would keep every request that has one, for routers of its
    own that ask for requests by it.
    Replicas are known by their ranks, which their successors inherit: one that dies or is upgraded
    moves no adapter between the others. A replica whose engine is being started again comes last.
    """

    def initialize_state(self, **options: Any) -> None:
        """`room` as `serve.affinity.ranked` has it."""
        self._room: int = options["room"]
        self._open: dict[ReplicaID, set[str]] = {}

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """One replica a rank, so that the next is tried where one does not take the request."""
        adapter = None
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
            if pending_request.metadata.call_method == "answer":
                adapter = pending_request.args[0]
        replicas = _named(candidate_replicas)
        names = random.sample(list(replicas), len(replicas))
        loads = {name: self._load(replicas[name].replica_id) for name in names}
        order = [replicas[name] for name in ranked(adapter, loads, self._room)]
        order.sort(key=lambda replica: not replica.routing_stats.get(READY, True))
        return [[replica] for replica in order]

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult
    ) -> None:
        """Ray calls it when a replica has taken a request."""
        request = pending_request.metadata.internal_request_id
        self._open.setdefault(replica_id, set()).add(request)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """Ray calls it when a request has ended, however, or was not taken."""
        requests = self._open.get(replica_id, set())
        requests.discard(internal_request_id)
        if not requests:
            self._open.pop(replica_id, None)

    def _load(self, replica: ReplicaID) -> int:
        """Requests of a replica, as Ray heard last; those of this router at least.

        Ray forgets what it heard where none comes or ends for 10 s.
        """
        known = self.replica_queue_len_cache.get(replica) or 0
        return max(known, len(self._open.get(replica, ())))


def _named(candidates: list[RunningReplica]) -> dict[str, RunningReplica]:
    """The replicas by their ranks; the second of a rank, while one succeeds another, by its id."""
    named: dict[str, RunningReplica] = {}
    for replica in candidates:
        unique = replica.replica_id.unique_id
        rank = str(replica.replica_metadata.get(RANK, unique))
        named[unique if rank in named else rank] = replica
    return named
