"""Which replica serves an adapter: the one that has it loaded, as long as that one is not too busy.

Rendezvous hashing with bounded loads, after Thaler and Ravishankar (1998) and Mirrokni et al.,
"Consistent Hashing with Bounded Loads" (2018). Each adapter has an order of its own over the
replicas, the same wherever it is computed and with nothing to remember; the first replica in it
that is within its bound takes the request. So an adapter is loaded in one place, a hot one also in
the next of its order, and a replica that comes or goes moves the adapters that are its own.
"""

import hashlib
from collections.abc import Iterable, Mapping

EXCESS = 1.25
"""What a replica without room may have of the replicas' mean load."""


def adapter_of(model: str) -> str:
    """What a client's model name is routed by: its versions and aliases stay together."""
    return model.partition("@")[0]


def preference(adapter: str, replicas: Iterable[str]) -> list[str]:
    """The adapter's own order over the replicas."""

    def weight(replica: str) -> bytes:
        return hashlib.blake2b(f"{adapter}\0{replica}".encode(), digest_size=8).digest()

    return sorted(replicas, key=weight)


def ranked(adapter: str | None, loads: Mapping[str, int], room: int) -> list[str]:
    """All replicas, the one that is to take the request first.

    `loads` has the requests that each has, running and waiting; `room` is how many it runs at once
    whatever adapters they are for: the fewer of its seats and its slots. `adapter` is None for what
    any replica does as well: the least loaded takes it.
    """
    by_load = sorted(loads, key=lambda replica: loads[replica])
    if adapter is None:
        return by_load
    bound = max(room, EXCESS * (sum(loads.values()) + 1) / max(1, len(loads)))
    within = [it for it in preference(adapter, loads) if loads[it] < bound]
    return within + [it for it in by_load if it not in within]
