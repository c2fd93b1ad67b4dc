"""A Lorikeet data folder of the benchmark's own, with adapters of random weights."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from loadtests.random_adapters import write_random_adapter
from registry import Base, Registry, RegistrySettings

PUBLISHERS = 8
"""At the same time: most of publishing is waiting for the disk."""


class DataFolder:
    """Made where `path` says; its registry works at once, and holds nothing."""

    def __init__(self, path: Path, base: Base) -> None:
        self.path = path
        self._base = base
        self._settings = RegistrySettings(home=path, database_url=None)
        Registry.open(self._settings).close()

    def publish(self, names: Sequence[str], *, rank: int) -> dict[str, Path]:
        """Publish an adapter with weights of its own under each name; the folders of their files.

        They are on every linear module.
        """
        paths: dict[str, Path] = {}
        for seed, name in enumerate(names):
            paths |= self.publish_alike([name], rank=rank, seed=seed)
        return paths

    def publish_alike(
        self, names: Sequence[str], *, rank: int, seed: int = 0, modules: int | None = None
    ) -> dict[str, Path]:
        """Publish the same weights under every name, which is faster; the folders of their files.

        They are on the first few linear modules, on all if `modules` is None.
        """
        with (
            TemporaryDirectory(dir=self.path) as folder,
            Registry.open(self._settings) as registry,
            ThreadPoolExecutor(PUBLISHERS) as publishers,
        ):
            draft = write_random_adapter(
                Path(folder) / "draft", self._base.path, rank=rank, seed=seed, modules=modules
            )

            def publish(name: str) -> Path:
                return registry.publish(draft, name, base=self._base, origin="import").path

            return dict(zip(names, publishers.map(publish, names), strict=True))

    def key(self, tenant: str, *, admin: bool = False) -> str:
        """A new API key for this tenant; from the first one on the server asks for one."""
        with Registry.open(self._settings) as registry:
            _, secret = registry.keys.create(tenant, admin=admin)
        return secret
