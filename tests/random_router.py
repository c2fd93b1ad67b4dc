"""What affinity is compared with: any replica, whoever asks. Ray imports it in other processes."""

import random
from typing import Any

from deploy.replicas.router import AffinityRouter


class RandomRouter(AffinityRouter):
    async def choose_replicas(self, candidate_replicas: Any, pending_request: Any = None) -> Any:
        shuffled = random.sample(candidate_replicas, len(candidate_replicas))
        return [[replica] for replica in shuffled]
