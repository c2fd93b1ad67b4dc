"""A Lorikeet server of the load test's own, with random adapters in a data folder of its own."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtests.data_folder import DataFolder
from registry import Base, RegistrySettings, resolve_base
from serve.child import Child, child_server

RANK = 8
WHOLE_ADAPTERS = 32
"""More than this many have weights on a few modules only: what counts then is that they are many,
and 1,000 on all modules of the default base would take 10 GB."""
FEW_MODULES = 7
ADMIN, QUIET, NOISY = "admin", "quiet", "noisy"
"""Tenants with a key."""


@dataclass(frozen=True, slots=True)
class ServerOrder:
    """What to start; None leaves the server's default."""

    base: str
    engine: str
    adapters: int
    max_loras: int
    max_loaded: int | None = None
    kv_cache_gib: float | None = None
    max_model_len: int | None = None
    with_keys: bool = False
    """Whether it asks for an API key."""


@dataclass(frozen=True)
class OwnServer:
    """One that is ready; `keys` by tenant, where it asks for them."""

    child: Child
    base: str
    adapters: tuple[str, ...]
    keys: Mapping[str, str]
    log: Path


@contextmanager
def own_server(
    order: ServerOrder, folder: Path, output: Path, say: Callable[[str], None]
) -> Iterator[OwnServer]:
    """Publish, start, and end with the context; its log is in `output`.

    Raises: LorikeetError.
    """
    found = resolve_base(order.base, RegistrySettings())
    base: Base = resolve_base(found.path, RegistrySettings())
    home = DataFolder(folder / "home", base)
    names = tuple(f"adapter-{number:04}" for number in range(1, order.adapters + 1))
    say(f"publishing {len(names):,} adapters")
    modules = None if len(names) <= WHOLE_ADAPTERS else FEW_MODULES
    home.publish_alike(names, rank=RANK, modules=modules)
    keys: dict[str, str] = {}
    if order.with_keys:
        keys = {tenant: home.key(tenant, admin=tenant == ADMIN) for tenant in (ADMIN, QUIET, NOISY)}
    options = ["--base", str(base.path), "--engine", order.engine, "--host", "127.0.0.1"]
    options += ["--max-loras", str(order.max_loras), "--max-lora-rank", str(RANK)]
    for option, value in (
        ("--max-loaded", order.max_loaded),
        ("--kv-cache-gib", order.kv_cache_gib),
        ("--max-model-len", order.max_model_len),
    ):
        options += [] if value is None else [option, str(value)]
    environment = {
        "LORIKEET_HOME": str(folder / "home"),
        "LORIKEET_DATABASE_URL": "",
        "LORIKEET_STORE_URL": "",
    }
    log = output / "server.log"
    say("starting the server")
    with child_server(options, log, env=environment) as child:
        yield OwnServer(child, base.id, names, keys, log)
