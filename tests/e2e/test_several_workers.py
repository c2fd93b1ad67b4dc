"""One engine over several workers, as it is over several GPUs: here two on a CPU's cores."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil


def test_two_workers_say_what_one_says(serve: Any) -> None:
    with serve() as served:
        alone: dict[str, str] = served.answers()
    assert len(set(alone.values())) == len(alone)  # each adapter is felt
    with serve("--tensor-parallel-size", "2", "--fully-sharded-loras") as served:
        family = psutil.Process(served.pid).children(recursive=True)
        assert sum("Worker_TP" in process.name() for process in family) == 2, family
        assert served.answers() == alone  # one by one, three adapters over two slots
        with ThreadPoolExecutor(8) as pool:
            asked = [model for model in alone for _ in range(2)]
            mixed = list(pool.map(served.ask, asked))
    for model, answer in zip(asked, mixed, strict=True):
        assert answer.json()["choices"][0]["message"]["content"] == alone[model], model
