"""Many adapters, published fast."""

from pathlib import Path

import pytest

from loadtests.data_folder import DataFolder
from registry import Base, Registry, RegistrySettings, resolve_base

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def base(tiny_base: Path) -> Base:
    return resolve_base(tiny_base, RegistrySettings())


def test_adapters_with_weights_of_their_own(tmp_path: Path, base: Base) -> None:
    paths = DataFolder(tmp_path / "home", base).publish(["a", "b"], rank=4)
    assert (paths["a"] / WEIGHTS).read_bytes() != (paths["b"] / WEIGHTS).read_bytes()
    with Registry.open(RegistrySettings(home=tmp_path / "home", database_url=None)) as registry:
        assert [version.reference for version in registry.list()] == ["a@1", "b@1"]
        assert registry.get("a").path == paths["a"]
        assert registry.get("a").manifest.rank == 4


def test_small_ones_alike_and_keys(tmp_path: Path, base: Base) -> None:
    folder = DataFolder(tmp_path / "home", base)
    names = [f"tiny-{number}" for number in range(20)]
    paths = folder.publish_alike(names, rank=1, modules=1)
    assert list(paths) == names
    assert len({(path / WEIGHTS).read_bytes() for path in paths.values()}) == 1
    assert (paths["tiny-0"] / WEIGHTS).stat().st_size < 4096
    secret = folder.key("noisy")
    with Registry.open(RegistrySettings(home=tmp_path / "home", database_url=None)) as registry:
        assert len(registry.list()) == 20
        key = registry.keys.find(secret)
        assert key is not None
        assert key.tenant == "noisy"
    assert not list((tmp_path / "home").glob("tmp*"))
