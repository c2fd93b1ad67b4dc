"""`lorikeet eval` in memory: the rows of the run, others, and what is kept of it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from registry import (
    AliasRefused,
    LorikeetError,
    Registry,
    RegistrySettings,
    UsageError,
    resolve_base,
)
from train.errors import DataError
from train.evaluation.cli import evaluate
from train.evaluation.evaluate_version import EvalRequest, evaluate_version
from train.evaluation.subject import Rows, Subject, find_subject, only_unseen
from train.progress import SilentReporter
from train.run import TrainRequest, run
from train.settings import TrainSettings

app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)
app.command()(evaluate)

COLOURS = ("blue", "green", "white")
ROWS = [{"prompt": f"What colour is thing {n}?", "completion": COLOURS[n % 3]} for n in range(16)]
OTHERS = [{"prompt": f"And thing {n}?", "completion": COLOURS[n % 3]} for n in range(12)]
QUICK = TrainSettings(
    epochs=1,
    batch_size=4,
    learning_rate=2e-2,
    rank=2,
    eval_fraction=0.25,
    few_shot_rows=3,
    threads=1,
)

WriteRows = Callable[..., Path]


class Notes(SilentReporter):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A data folder in which `colours` was trained and evaluated."""
    folder = tmp_path_factory.mktemp("made")
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    settings = RegistrySettings(home=folder / "home")
    run(TrainRequest(data, "colours", tiny_base, QUICK, registry_settings=settings))
    return folder


@pytest.fixture
def places(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RegistrySettings:
    """A copy of that folder, as LORIKEET_HOME."""
    shutil.copytree(made / "home", tmp_path / "home")
    monkeypatch.setenv("LORIKEET_HOME", str(tmp_path / "home"))
    return RegistrySettings()


def evaluated(
    reference: str, rows: Rows | None = None, **options: Any
) -> tuple[dict[str, Any], list[str]]:
    notes = Notes()
    request = EvalRequest(reference, rows or Rows(), **options)
    _, evaluation = evaluate_version(request, notes)
    return dict(evaluation), notes.notes


def lorikeet_eval(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(done.exception, LorikeetError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_without_rows_those_of_the_run_give_what_the_run_found(places: RegistrySettings) -> None:
    with Registry.open(places) as registry:
        before = registry.get("colours").manifest.evaluation
    assert before is not None
    found, notes = evaluated("colours")
    assert notes == ["evaluating colours@1 on 4 held-out rows of held-out.jsonl"]
    assert found["measured"]["by"] == "PEFT (nf4, float32, cpu)"
    for who in ("adapter", "base", "few_shot"):
        ours, theirs = dict(found[who]), dict(before[who])
        assert ours.pop("seconds") > 0
        assert theirs.pop("seconds") > 0
        for figure in ("loss", "loss_low", "loss_high"):
            assert ours.pop(figure) == pytest.approx(theirs.pop(figure), abs=1e-5)
        assert json.loads(json.dumps(ours)) == theirs
    assert found["few_shot_examples"] == before["few_shot_examples"] == 3
    assert found["few_shot"]["prompt_tokens"] > 2 * found["base"]["prompt_tokens"]
    with Registry.open(places) as registry:
        kept = registry.verify("colours").manifest.evaluation
    assert kept == json.loads(json.dumps(found))


def test_the_command_prints_a_table_and_what_the_gate_will_say(
    places: RegistrySettings, write_rows: WriteRows
) -> None:
    printed = lorikeet_eval("colours@1", "--data", write_rows(*OTHERS), "--no-save")
    assert "held-out rows" in printed
    assert "base, 3 examples" in printed
    assert "expected, and what the adapter answered" in printed
    assert "colours@1: it is not shown to be better than" in printed
    with Registry.open(places) as registry:
        kept = registry.get("colours").manifest.evaluation
    assert kept is not None
    assert kept["adapter"]["rows"] == 4


def test_as_json_and_recorded_on_the_version(
    places: RegistrySettings, write_rows: WriteRows
) -> None:
    printed = json.loads(
        lorikeet_eval("colours", "--data", write_rows(*OTHERS), "--rows", 10, "--json")
    )
    assert printed["reference"] == "colours@1"
    evaluation = printed["evaluation"]
    assert (evaluation["task"], evaluation["adapter"]["rows"]) == ("labels", 10)
    assert evaluation["comparison"].keys() == {"metric", "base", "few_shot"}
    sample = evaluation["samples"][0]
    assert sample["question"].startswith("And thing")
    assert sample["expected"] in COLOURS
    assert sample.keys() == {"question", "expected", "adapter", "base", "few_shot"}
    with Registry.open(places) as registry:
        assert registry.get("colours").manifest.evaluation == evaluation


def test_plain_text_is_evaluated_on_the_rows_of_its_run(
    places: RegistrySettings, tiny_base: Path, tmp_path: Path
) -> None:
    data = tmp_path / "text.jsonl"
    data.write_text("".join(json.dumps({"text": f"Thing {n} is blue."}) + "\n" for n in range(12)))
    settings = QUICK.model_copy(update={"data_format": "text", "baselines": False, "max_steps": 1})
    run(TrainRequest(data, "texts", tiny_base, settings, registry_settings=places))
    found, _ = evaluated("texts", Rows(shots=2))
    assert (found["adapter"]["rows"], found["few_shot_examples"]) == (3, 2)
    assert found["measured"]["trained_on"] == 0


def found_subject(places: RegistrySettings, rows: Rows) -> tuple[Subject, list[str]]:
    """What an evaluation would ask; no model is loaded."""
    notes = Notes()
    with Registry.open(places) as registry:
        subject = find_subject(registry.get("colours"), rows, places, notes)
    return only_unseen(subject, notes, own=rows.data is None)[0], notes.notes


def test_rows_that_were_trained_on_measure_nothing(
    places: RegistrySettings, made: Path, write_rows: WriteRows
) -> None:
    subject, _ = found_subject(places, Rows())
    held_out = {chat.prompt[0].content for chat in subject.held_out.chats}
    trained = [row for row in ROWS if row["prompt"] not in held_out]
    assert len(trained) == len(subject.training) == 12
    with pytest.raises(DataError, match="trained on every row"):
        evaluated("colours", Rows(write_rows(*trained)))
    mixed, notes = found_subject(places, Rows(write_rows(trained[0], *OTHERS[:3])))
    assert notes == ["1 of 4 held-out rows were trained on: left out"]
    assert len(mixed.held_out.chats) == 3
    (made / "rows.jsonl").rename(made / "gone.jsonl")
    try:
        _, notes = found_subject(places, Rows(write_rows(*trained)))
        with pytest.raises(DataError, match=r"was trained on .*; which"):
            found_subject(places, Rows(made / "gone.jsonl"))
        (made / "rows.jsonl").write_text(json.dumps(OTHERS[0]) + "\n" + json.dumps(OTHERS[1]))
        _, changed = found_subject(places, Rows())
        assert changed == ["the training rows have changed since: rows.jsonl"]
    finally:
        (made / "gone.jsonl").rename(made / "rows.jsonl")
    assert notes[-1] == "whether colours@1 was trained on these rows is not known here"


def test_the_examples_are_the_runs_or_more_of_its_training_rows(places: RegistrySettings) -> None:
    held_out = {chat.question for chat in found_subject(places, Rows())[0].held_out.chats}
    shown = [found_subject(places, Rows(shots=n))[0].examples for n in (None, 2, 9, 0)]
    assert [len(examples) for examples in shown] == [3, 2, 9, 0]
    assert shown[0][:2] == shown[1]
    assert not {chat.question for chat in shown[2]} & held_out


def test_examples_that_are_held_out_rows_are_left_out(
    places: RegistrySettings, write_rows: WriteRows
) -> None:
    data = write_rows(*OTHERS, name="held.jsonl")
    examples = write_rows(*OTHERS[:2], *ROWS[:2], name="examples.jsonl")
    subject, notes = found_subject(places, Rows(data, examples))
    assert [chat.prompt[0].content for chat in subject.examples] == [
        row["prompt"] for row in ROWS[:2]
    ]
    assert notes == ["2 rows of examples.jsonl are held-out rows: left out"]


def test_without_examples_there_is_no_comparison_with_them(places: RegistrySettings) -> None:
    found, _ = evaluated("colours", Rows(shots=0, most=2))
    assert (found["few_shot"], found["few_shot_examples"]) == (None, 0)
    assert "few_shot" not in found["comparison"]
    with Registry.open(places) as registry, pytest.raises(AliasRefused, match="few-shot"):
        registry.promote("colours", 1)


def test_an_adapter_made_elsewhere_needs_rows_and_has_a_baseline_less(
    places: RegistrySettings,
    tiny_base: Path,
    tmp_path: Path,
    make_adapter: Callable[..., Path],
    write_rows: WriteRows,
) -> None:
    base = resolve_base(tiny_base, places)
    with Registry.open(places) as registry:
        registry.publish(make_adapter(tmp_path / "a", base), "theirs", base=base, origin="import")
    with pytest.raises(UsageError, match="no held-out rows of theirs@1"):
        evaluated("theirs")
    rows = Rows(write_rows(*OTHERS))
    found, notes = evaluated("theirs", rows, base=str(tiny_base))
    assert found["measured"]["by"] == "PEFT (none, float32, cpu)"
    assert found["few_shot"] is None
    assert any("--examples" in note for note in notes)


def test_another_base_is_refused(places: RegistrySettings, tiny_base: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_base, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-6}))
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    with pytest.raises(UsageError, match="belongs to another base"):
        evaluated("colours", base=str(other))
