"""What is loaded before the engine: one OpenMP library, unless the operator chose another."""

import multiprocessing
import os
from importlib import metadata
from multiprocessing import forkserver
from pathlib import Path

import pytest

from serve.engine import process


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Without the process that imports vLLM."""
    monkeypatch.setattr(forkserver, "ensure_running", lambda: None)
    monkeypatch.setattr(
        multiprocessing.get_context("forkserver"), "set_forkserver_preload", lambda names: None
    )
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("chosen", "loaded"),
    [
        ("", ["libiomp5.so"]),
        ("/lib/libtcmalloc.so", ["libtcmalloc.so", "libiomp5.so"]),
        ("/lib/libgomp.so.1", ["libgomp.so.1"]),
        ("/lib/libomp.so", ["libomp.so"]),
    ],
)
def test_intels_comes_first_and_an_operators_own_stays(
    begun: pytest.MonkeyPatch, chosen: str, loaded: list[str]
) -> None:
    begun.setenv("LD_PRELOAD", chosen)
    process.begin()
    assert [Path(library).name for library in _preloaded()] == loaded


def test_without_intels_it_is_pytorchs(begun: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    begun.setattr(metadata, "files", missing)
    process.begin()
    (library,) = _preloaded()
    assert Path(library).is_file()
    assert Path(library).name.startswith("libgomp")


def _preloaded() -> list[str]:
    return os.environ["LD_PRELOAD"].split(":")
