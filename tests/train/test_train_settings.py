"""Settings: defaults, file and overrides; every mistake told at once."""

from pathlib import Path

import pytest

from registry.preflight import Limits
from train.errors import SettingsError
from train.settings import SERVABLE_RANK, TrainSettings
from train.settings_file import load_settings


def test_overrides_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    config = tmp_path / "recipe.yaml"
    config.write_text("epochs: 7\nrank: 8\nlearning_rate: 1e-3\n")
    settings = load_settings(config, ["rank=4", "targets=q_proj, v_proj"])
    assert (settings.epochs, settings.rank, settings.learning_rate) == (7.0, 4, 1e-3)
    assert settings.targets == ("q_proj", "v_proj")
    assert settings.batch_size == TrainSettings().batch_size


def test_alpha_follows_the_rank_unless_it_is_set() -> None:
    assert load_settings(None, ["rank=4"]).lora_alpha == 8
    assert load_settings(None, ["rank=4", "alpha=16"]).lora_alpha == 16


def test_a_path_in_the_file_is_relative_to_the_file(tmp_path: Path) -> None:
    config = tmp_path / "recipe.yaml"
    config.write_text("few_shot_data: shots.jsonl\n")
    assert load_settings(config).few_shot_data == tmp_path / "shots.jsonl"
    assert load_settings(None, ["few_shot_data=a/b.jsonl"]).few_shot_data == Path("a/b.jsonl")


def test_every_mistake_is_told_at_once_and_an_unknown_name_gets_the_nearest() -> None:
    wrong = ["learning_rat=1", "rank=0", "quantization=nf5", "epochs=.nan", "noequals", "zzz=1"]
    with pytest.raises(SettingsError) as caught:
        load_settings(None, wrong)
    message = caught.value.message
    assert len(caught.value.problems) == len(wrong)
    assert "did you mean learning_rate?" in message
    for part in ("rank=0", "'nf5'", "epochs=nan", "noequals", "zzz: there is no such setting"):
        assert part in message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "override",
    [
        "learning_rate=.inf",
        "learning_rate=.nan",
        "learning_rate=nan",
        "optimizer=sgd",
        "report_to=mlflow",
        "early_stopping=0",
        "checkpoint_steps=0",
        "learning_rate=-1",
        "rank=65",
        "eval_fraction=1",
        "targets=lm_head",
        "targets=[]",
        "batch_size=0",
        "dropout=x",
        "max_length=2",
        "gradient_checkpointing=perhaps",
    ],
)
def test_impossible_values_are_refused_by_name(override: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(None, [override])
    assert [
        problem.startswith(override.partition("=")[0]) for problem in caught.value.problems
    ] == [True]


@pytest.mark.parametrize("content", ["[1, 2]", "a: [", "\xff", "just text"])
def test_a_file_that_holds_no_settings_is_one_error(tmp_path: Path, content: str) -> None:
    config = tmp_path / "recipe.yaml"
    config.write_bytes(content.encode("latin-1"))
    with pytest.raises(SettingsError, match=r"recipe\.yaml"):
        load_settings(config)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("dora=true", "vLLM does not serve it"),
        ("use_dora=true", "vLLM does not serve it"),
        ("init_lora_weights=pissa", "would not fit the base that is served"),
        ("modules_to_save=[lm_head]", "replace the base's for everybody"),
        ("targets=[q_proj, lm_head]", "an adapter on lm_head cannot be served"),
        ("targets=embed_tokens", "an adapter on embed_tokens cannot be served"),
        ("new_tokens=[a]", "change the embedding that all adapters share"),
        ("bias=all", "vLLM does not serve them"),
        ("rank_pattern={}", "ranks and alphas by layer are not served"),
        ("chat_template=x", "the base's own template"),
        ("rank=128", "a server takes at most 64"),
    ],
)
def test_settings_whose_adapter_could_not_be_served_are_refused_with_the_reason(
    override: str, reason: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(None, [override])
    [problem] = caught.value.problems
    assert problem.startswith(override.partition("=")[0])
    assert reason in problem


def test_the_highest_rank_is_the_one_that_the_registry_takes() -> None:
    assert Limits().max_rank == SERVABLE_RANK


def test_trackers_may_be_written_with_commas() -> None:
    assert load_settings(None, ["report_to=wandb, trackio"]).report_to == ("wandb", "trackio")
    assert load_settings(None, ["report_to=none"]).report_to == ()


def test_a_missing_file_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        load_settings(tmp_path / "none.yaml")


def test_the_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LORIKEET_TRAIN_RANK", "3")
    assert load_settings() == TrainSettings()
