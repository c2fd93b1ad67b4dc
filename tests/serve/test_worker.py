"""What runs in the engine's worker: broken logits are seen, adapters come and go."""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from serve.engine.worker import WorkerExtension, not_finite_rows

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("row", "broken"),
    [
        ([1.0, 2.0, 3.0], False),
        ([-INF, 2.0, -INF], False),
        ([3e38, -3e38, 0.0], False),
        ([1.0, NAN, 3.0], True),
        ([NAN, NAN, NAN], True),
        ([1.0, INF, 3.0], True),
        ([INF, NAN, -INF], True),
        ([-INF, -INF, -INF], True),
        ([0.0, 0.0, 0.0], True),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_that_come_of_broken_numbers(
    row: list[float], broken: bool, dtype: torch.dtype
) -> None:
    logits = torch.tensor([[1.0, 2.0, 0.0], row, [5.0, -5.0, 1.0]], dtype=dtype)
    assert not_finite_rows(logits).tolist() == [0, int(broken), 0]


def test_no_rows() -> None:
    assert not_finite_rows(torch.zeros(0, 8)).tolist() == []


class Loras:
    """vLLM's manager, as far as the extension uses it."""

    def __init__(self) -> None:
        self.held: dict[int, str] = {}
        self._adapter_manager = self

    def _load_adapter(self, request: Any) -> Any:
        if "broken" in request.lora_path:
            raise OSError("broken")
        return request

    def _create_merged_loras_inplace(self, lora: Any) -> None: ...

    def add_adapter(self, lora: Any) -> None:
        self.held[lora.lora_int_id] = lora.lora_name

    def remove_adapter(self, lora_id: int) -> None:
        self.held.pop(lora_id, None)

    def list_adapters(self) -> set[int]:
        return set(self.held)


@pytest.fixture
def worker() -> WorkerExtension:
    extension = WorkerExtension()
    extension._loras = Loras()
    extension._preparing = {}
    extension._thread = ThreadPoolExecutor(1)
    return extension


def test_an_adapter_is_prepared_registered_and_forgotten(worker: WorkerExtension) -> None:
    worker.prepare_lora("a@1", 7, "/somewhere")
    worker.register_lora(7)
    assert worker._loras.held == {7: "a@1"}
    assert worker.forget_lora(7)
    assert worker._loras.held == {}


def test_what_fails_fails_when_it_is_registered_and_leaves_nothing(worker: WorkerExtension) -> None:
    worker.prepare_lora("a@1", 7, "/broken")
    with pytest.raises(OSError, match="broken"):
        worker.register_lora(7)
    assert worker.forget_lora(7)
    assert not worker._preparing


def test_an_adapter_that_nobody_waits_for_is_forgotten(worker: WorkerExtension) -> None:
    worker.prepare_lora("a@1", 7, "/somewhere")
    assert worker.forget_lora(7)
    assert not worker._preparing
