"""Which replica the router ranks first, with what Ray tells it made up."""

from types import SimpleNamespace
from typing import Any

import pytest

from serve.affinity import preference

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore")]  # Ray's own
ROOM = 2


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Routed:
    """A router of two replicas; `now` is its clock, in seconds."""

    def __init__(self) -> None:
        from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID

        from deploy.replicas.router import RANK, AffinityRouter

        self.now = 1000.0
        deployment = DeploymentID(name="Replica", app_name="lorikeet")
        self.router = AffinityRouter(
            deployment,
            DeploymentHandleSource.REPLICA,
            use_replica_queue_len_cache=True,
            get_curr_time_s=lambda: self.now,
        )
        self.router.initialize_state(room=ROOM)
        self.replicas: list[Any] = [
            SimpleNamespace(
                replica_id=ReplicaID(f"id-{rank}", deployment),
                replica_metadata={RANK: rank},
                routing_stats={},
            )
            for rank in range(2)
        ]

    def request(self, *arguments: Any, method: str = "answer", name: str = "1") -> Any:
        metadata = SimpleNamespace(call_method=method, internal_request_id=name)
        context = SimpleNamespace(should_backoff=False)
        return SimpleNamespace(args=list(arguments), metadata=metadata, routing_context=context)

    async def first(self, request: Any) -> str:
        """The rank of the replica that is asked first."""
        ranked = await self.router.choose_replicas(self.replicas, request)
        assert len(ranked) == 2
        return str(self.replicas.index(ranked[0][0]))

    def send(self, rank: int, name: str) -> None:
        """What Ray does where a replica takes a request."""
        replica = self.replicas[rank].replica_id
        self.router.on_send_request(replica)
        self.router.on_request_routed(self.request("opl", name=name), replica, None)

    def end(self, rank: int, name: str) -> None:
        replica = self.replicas[rank].replica_id
        self.router.on_request_completed(replica, name)
        self.router.decrement_queue_len_cache(replica)


async def test_the_adapter_is_the_first_argument_of_an_answer() -> None:
    routed = Routed()
    for adapter in ("opl", "titulares", "support", "tenant-7"):
        assert (
            await routed.first(routed.request(adapter, {}, []))
            == (preference(adapter, ["0", "1"])[0])
        )
    routed.send(0, "busy")
    assert await routed.first(routed.request(None, {}, [])) == "1"
    assert await routed.first(routed.request("a header", method="caller")) == "1"


async def test_requests_that_have_not_ended_count_however_long_nothing_has_changed() -> None:
    routed = Routed()
    home = int(preference("opl", ["0", "1"])[0])
    for number in range(ROOM + 1):
        routed.send(home, str(number))
    routed.now += 3600
    assert await routed.first(routed.request("opl")) == str(1 - home)
    for number in range(ROOM + 1):
        routed.end(home, str(number))
    assert await routed.first(routed.request("opl")) == str(home)
    routed.router.on_request_completed(routed.replicas[home].replica_id, "was not taken")
    assert not routed.router._open
