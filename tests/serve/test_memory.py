"""Zeros that nobody writes."""

import ctypes
from types import SimpleNamespace

import pytest
import torch

from serve.engine import memory
from serve.engine.memory import SMALLEST, FreshPages, fill


@pytest.fixture(autouse=True)
def regions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    taken: list[tuple[int, int]] = []
    monkeypatch.setattr(memory, "_regions", taken)
    return taken


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_large_zeros_are_as_torch_makes_them(
    dtype: torch.dtype, regions: list[tuple[int, int]]
) -> None:
    with FreshPages():
        ours = torch.zeros(3, 1, 64, 4096, dtype=dtype, device=torch.device("cpu"))
    theirs = torch.zeros(3, 1, 64, 4096, dtype=dtype)
    assert regions == [(ours.data_ptr(), ours.nbytes)]
    assert torch.equal(ours, theirs)
    assert (ours.stride(), ours.dtype) == (theirs.stride(), theirs.dtype)
    ours[1] = 1
    assert ours._version == 1


def test_small_ones_and_other_devices_are_left_to_torch(regions: list[tuple[int, int]]) -> None:
    with FreshPages():
        torch.zeros(SMALLEST - 1, dtype=torch.int8)
        torch.zeros((1024, 1024), device="meta")
        torch.ones(1024, 1024)
    assert regions == []


def test_pages_are_made_real_and_keep_what_is_in_them(regions: list[tuple[int, int]]) -> None:
    with FreshPages():
        ours = torch.zeros(5 << 20, dtype=torch.int8)
    ours[123] = 7
    fill()
    assert regions == []
    assert int(ours.sum()) == 7


def test_a_kernel_that_cannot_is_asked_once(
    regions: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, ...]] = []

    def refuse(*arguments: int) -> int:
        asked.append(arguments)
        return -1

    with FreshPages():
        zeros = [torch.zeros(1 << 20, dtype=torch.int8) for _ in range(3)]
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(madvise=refuse))
    fill()
    assert len(asked) == 1
    assert not any(zero.any() for zero in zeros)
