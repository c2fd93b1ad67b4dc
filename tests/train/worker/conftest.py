"""What the tests of the worker share: registries with a base, one a test or one a module."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from child_processes import Forked, Pretender
from conftest import MakeAdapter
from worker_world import World

from registry import Registry, RegistrySettings, resolve_base


@pytest.fixture
def world(registry: Registry, tiny_base: Path) -> World:
    """A world with nothing in it, in LORIKEET_HOME."""
    return World(registry, resolve_base(tiny_base, registry.settings))


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Iterator[World]:
    """A world for all tests of a module."""
    settings = RegistrySettings(home=tmp_path_factory.mktemp("worker"), database_url=None)
    with Registry.open(settings) as registry:
        yield World(registry, resolve_base(tiny_base, settings))


@pytest.fixture(scope="module")
def forked(lasting: World) -> Forked:
    """Real children for `lasting`."""
    return Forked(lasting.registry.settings.home)


@pytest.fixture
def adapter(world: World, make_adapter: MakeAdapter, tmp_path: Path) -> Path:
    """A small adapter for the base."""
    return make_adapter(tmp_path / "adapter", world.base, rank=1, targets=("q_proj",))


@pytest.fixture
def pretender(world: World, adapter: Path) -> Pretender:
    """Children that say that all is well."""
    return Pretender(world.registry, adapter)
