"""A worker on another machine than the one that took the file in: it fetches what it works on."""

from pathlib import Path

import pytest
from child_processes import Scripted
from object_store import Store
from worker_world import ROWS, World

from registry import Registry, RegistrySettings, resolve_base
from train.worker.order import Order, Outcome

pytestmark = pytest.mark.parametrize("store", ["file"], indirect=True)


def test_the_rows_are_here_while_a_child_works(
    store: Store, registry: Registry, tiny_base: Path, tmp_path: Path
) -> None:
    here = World(registry, resolve_base(tiny_base, registry.settings))
    job = here.job()
    settings = RegistrySettings(home=tmp_path / "there", database_url=registry.settings.url)
    seen: list[Path] = []

    def look(order: Order) -> Outcome:
        seen.append(Path(order.training.path))
        assert len(seen[0].read_text().splitlines()) == len(ROWS)
        return Outcome("failed", "invalid_training_file", "enough")

    with Registry.open(settings) as there:
        World(there, here.base).work(Scripted(look))
    assert seen[0].is_relative_to(settings.cache)
    assert here.now(job).status == "failed"


def test_rows_that_were_changed_in_the_store_are_not_worked_on(
    store: Store, registry: Registry, tiny_base: Path
) -> None:
    world = World(registry, resolve_base(tiny_base, registry.settings))
    world.job()
    (blob,) = store.objects()
    store.write(blob, b"x" * len(store.read(blob)))
    found: list[bool] = []

    def look(order: Order) -> Outcome:
        found.append(Path(order.training.path).exists())
        return Outcome("failed", "internal_error", "The stored file is damaged")

    world.work(Scripted(look))
    assert found == [False]
