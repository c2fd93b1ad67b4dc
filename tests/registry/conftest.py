"""What the registry's tests share: the tiny base, resolved once, and ways to break an adapter."""

from pathlib import Path
from typing import Any

import pytest
from adapter_edit import Edit

from registry import Base, RegistrySettings, resolve_base


@pytest.fixture(scope="session")
def base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Base:
    """The tiny base, identified."""
    return resolve_base(tiny_base, RegistrySettings(home=tmp_path_factory.mktemp("home")))


@pytest.fixture
def adapter(tmp_path: Path, base: Base, make_adapter: Any) -> Path:
    """The folder of a good adapter of rank 8."""
    folder: Path = make_adapter(tmp_path / "adapter", base)
    return folder


@pytest.fixture
def adapters(tmp_path: Path, base: Base, make_adapter: Any) -> list[Path]:
    """Four adapters of different content."""
    return [make_adapter(tmp_path / f"a{seed}", base, rank=1, seed=seed) for seed in range(4)]


@pytest.fixture
def edit(adapter: Path) -> Edit:
    """Ways to change the good adapter."""
    return Edit(adapter)
