"""Whole runs on the tiny base: what is published, and that failures publish nothing."""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from registry import BadReference, Registry, RegistrySettings, UnknownBase, UsageError
from train.errors import DataError, DataFileMissing, Interrupted, LossNotFinite
from train.progress import SilentReporter, Step
from train.run import TrainRequest, run
from train.settings import TrainSettings

COLOURS = ("blue", "green", "white")
ROWS = [{"prompt": f"What colour is thing {n}?", "completion": COLOURS[n % 3]} for n in range(12)]
QUICK = TrainSettings(epochs=1, batch_size=4, learning_rate=2e-2, rank=4, eval_fraction=0.25)

WriteRows = Callable[..., Path]


class Listener(SilentReporter):
    """Remembers what it was told, and presses Ctrl-C at a step where it is asked to."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.notes: list[str] = []
        self.evaluated: dict[str, tuple[int, int]] = {}
        self._stop_at = stop_at

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self, step: Step) -> None:
        if step.number == self._stop_at:
            raise KeyboardInterrupt

    def answered(self, what: str, done: int, total: int) -> None:
        self.evaluated[what] = (done, total)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for temporary files, to see that nothing stays in it."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_run_publishes_a_version_with_its_training_and_evaluation(
    home: Path, tiny_base: Path, write_rows: WriteRows, scratch: Path
) -> None:
    listener = Listener()
    data = write_rows(*ROWS)
    result = run(TrainRequest(data, "colours", tiny_base, QUICK), listener)
    with Registry.open(RegistrySettings(home=home)) as registry:
        version = registry.get("colours")
    assert result.version is not None
    assert version.reference == result.version.reference == "colours@1"
    manifest = version.manifest
    assert (manifest.origin, manifest.rank, manifest.alpha) == ("train", 4, 8)
    assert manifest.base.id == "tiny"
    assert manifest.data_digest is not None
    assert manifest.data_digest.startswith("sha256:")
    assert manifest.training is not None
    assert (manifest.training["rows"], manifest.training["steps"]) == (9, 3)
    assert manifest.training["settings"]["learning_rate"] == 2e-2
    assert manifest.training["seed"] == QUICK.seed
    assert len(manifest.training["losses"]) == 3
    assert manifest.evaluation is not None
    assert [manifest.evaluation[who]["rows"] for who in ("base", "few_shot", "adapter")] == [3] * 3
    assert manifest.evaluation["few_shot_examples"] == 5
    assert manifest.evaluation["adapter"]["loss"] < manifest.evaluation["base"]["loss"]
    assert set(listener.evaluated.values()) == {(6, 6), (3, 3)}
    assert "9 rows" in listener.notes[-1]
    assert json.loads(json.dumps(result.as_dict()))["version"] == "colours@1"
    assert str(tiny_base) not in version.path.joinpath("adapter_config.json").read_text()
    assert list(scratch.iterdir()) == []


def test_the_held_out_file_is_the_one_evaluated_and_publishing_can_be_off(
    home: Path, tiny_base: Path, write_rows: WriteRows
) -> None:
    held_out = write_rows({"prompt": "What colour?", "completion": "blue"}, name="held.jsonl")
    settings = QUICK.model_copy(update={"baselines": False, "max_rows": 4})
    request = TrainRequest(
        write_rows(*ROWS), "colours", tiny_base, settings, eval_data=held_out, publish=False
    )
    result = run(request)
    assert result.version is None
    assert result.training["rows"] == 4
    assert result.evaluation is not None
    assert result.evaluation.adapter.rows == 1
    assert result.evaluation.base is None
    with Registry.open(RegistrySettings(home=home)) as registry:
        assert registry.list() == []


def test_ctrl_c_publishes_nothing_and_leaves_nothing(
    home: Path, tiny_base: Path, write_rows: WriteRows, scratch: Path
) -> None:
    with pytest.raises(Interrupted, match="nothing was published") as caught:
        run(TrainRequest(write_rows(*ROWS), "colours", tiny_base, QUICK), Listener(stop_at=2))
    assert caught.value.exit_code == 130
    with Registry.open(RegistrySettings(home=home)) as registry:
        assert registry.list() == []
    assert list(scratch.iterdir()) == []


def test_a_loss_that_is_not_finite_publishes_nothing(
    home: Path, tiny_base: Path, write_rows: WriteRows, tmp_path: Path, scratch: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_base, broken)
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LossNotFinite):
        run(TrainRequest(write_rows(*ROWS), "colours", broken, QUICK))
    with Registry.open(RegistrySettings(home=home)) as registry:
        assert registry.list() == []
    assert list(scratch.iterdir()) == []


def test_bad_input_is_refused_before_any_model_is_loaded(
    home: Path, write_rows: WriteRows, tmp_path: Path
) -> None:
    good = write_rows(*ROWS)
    bad = write_rows(*ROWS[:2], {"prompt": "a"}, name="bad.jsonl")
    settings = QUICK
    with pytest.raises(BadReference):
        run(TrainRequest(good, "No Name", "none", settings))
    with pytest.raises(UsageError, match="named like its base"):
        run(TrainRequest(good, "none", "none", settings))
    with pytest.raises(DataFileMissing):
        run(TrainRequest(tmp_path / "missing.jsonl", "colours", "none", settings))
    with pytest.raises(DataError, match="line 3: no answer"):
        run(TrainRequest(bad, "colours", "none", settings))
    with pytest.raises(DataError, match="every held-out row is among the training rows"):
        run(TrainRequest(good, "colours", "none", settings, eval_data=good))
    with pytest.raises(UnknownBase, match="none"):
        run(TrainRequest(good, "colours", "none", settings))
    assert not (home / "adapters").exists() or list((home / "adapters").glob("*/*")) == []
