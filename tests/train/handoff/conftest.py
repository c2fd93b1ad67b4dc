"""A registry with an adapter on the tiny base, and a stand-in for a server that PEFT is behind."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from registry import Base, Registry, RegistrySettings, Version, resolve_base
from train.base_model import load_tokenizer
from train.data.masking import Encoded
from train.handoff.models import load_as_served
from train.handoff.score_server import ServedScores
from train.handoff.token_scores import token_scores
from train.hardware import detect
from train.settings import TrainSettings

TRAINING = {"settings": TrainSettings(rank=4).model_dump(mode="json"), "steps": 3}


@pytest.fixture
def base(tiny_base: Path, home: Path) -> Base:
    return resolve_base(tiny_base, RegistrySettings(home=home))


@pytest.fixture
def publish(
    registry: Registry, base: Base, tmp_path: Path, make_adapter: Callable[..., Path]
) -> Callable[..., Version]:
    """Publish an adapter that says it was trained on the NF4 base; `scale` is its strength."""

    def published(seed: int = 0, scale: float = 0.3, **options: Any) -> Version:
        folder = make_adapter(tmp_path / f"opl-{seed}-{scale}", base, seed=seed, scale=scale)
        options = {"training": TRAINING, "data_digest": "sha256:" + "0" * 64} | options
        return registry.publish(folder, "opl", base=base, **options)

    return published


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    import json

    path = tmp_path / "held-out.jsonl"
    rows = [
        {"prompt": f"What is {number} and {number}?", "completion": f"It is {2 * number}."}
        for number in range(6)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class PeftServer:
    """Answers as a server would, with PEFT behind it; the flaws are those that a server may have.

    `weights` is the folder of the adapter that it really serves, None: it forgets the adapter.
    """

    def __init__(
        self, base: Base, version: Version, weights: Path | None, dtype: str = "float32"
    ) -> None:
        self.base, self.version, self.weights, self.dtype = base, version, weights, dtype
        self.digest = version.digest
        self.asked: list[str | None] = []

    def scores(self, model: str | None, rows: Sequence[Encoded], on_rows: Any) -> ServedScores:
        self.asked.append(model)
        settings = TrainSettings()
        adapted = load_as_served(
            self.base,
            self.weights or self.version.path,
            settings,
            detect(settings),
            dtype=self.dtype,
            quantization="none",
        )
        pad_id = load_tokenizer(self.base).pad_token_id
        if model is None or self.weights is None:
            with adapted.disable_adapter():
                scores = token_scores(adapted, rows, pad_id=pad_id, batch_size=2)
        else:
            scores = token_scores(adapted, rows, pad_id=pad_id, batch_size=2)
        on_rows(len(rows))
        engine = {"stand-in": "1", "dtype": self.dtype, "quantization": "none"}
        digest = None if model is None else self.digest
        return ServedScores(scores, digest, self.base.digest, engine)


@pytest.fixture
def serving() -> Callable[..., Any]:
    """`serving(server)` is what `certify_version` opens."""

    def opener(server: Any) -> Any:
        @contextmanager
        def opened(_: Base, __: Version) -> Iterator[Any]:
            yield server

        return opened

    return opener
