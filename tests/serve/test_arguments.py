"""vLLM's command line for a GPU, made on a machine without one."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from registry import Base, RegistrySettings, resolve_base
from serve.engine import arguments
from serve.settings import ServeSettings


@pytest.fixture
def base(tiny_base: Path, home: Path) -> Base:
    return resolve_base(tiny_base, RegistrySettings(home=home))


def backend(
    monkeypatch: pytest.MonkeyPatch, base: Base, *, family: int, toolkit: bool
) -> str | None:
    """What attends on a GPU of that compute capability."""
    gpu = SimpleNamespace(
        is_cpu=lambda: False, is_device_capability_family=lambda asked: asked == family
    )
    monkeypatch.setattr(arguments, "current_platform", gpu)
    monkeypatch.setattr(arguments, "has_toolkit", lambda: toolkit)
    chosen: str | None = arguments.engine_arguments(ServeSettings(), base).attention_backend
    return chosen


def test_flashinfer_attends_only_where_it_can_be_compiled(
    monkeypatch: pytest.MonkeyPatch, base: Base
) -> None:
    def chosen(base: Base, **machine: Any) -> str | None:
        return backend(monkeypatch, base, **machine)

    assert chosen(base, family=100, toolkit=False) == "TRITON_ATTN"
    assert chosen(base, family=100, toolkit=True) is None
    assert chosen(base, family=90, toolkit=False) is None
    monkeypatch.setattr(Base, "config", {**base.config, "kv_lora_rank": 512})
    assert chosen(base, family=100, toolkit=False) is None
