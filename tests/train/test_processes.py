"""Several processes of one run, as a launcher starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import train
from registry import Registry, RegistrySettings
from train.hardware import detect
from train.processes import Processes, launched
from train.run import TrainRequest, run
from train.settings import TrainSettings

RECIPE = Path(train.__file__).parent / "accelerate" / "fsdp_qlora.yaml"
ROOT = RECIPE.parents[2]
ROWS = [{"prompt": f"Thing {n}?", "completion": ("blue", "white")[n % 2]} for n in range(16)]
HELD_OUT = [{"prompt": "Another thing?", "completion": "blue"}]
SETTINGS = {"threads": 1, "epochs": 2, "rank": 4, "learning_rate": 0.02, "baselines": False}


def test_one_process_without_a_launcher_and_a_place_with_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "ACCELERATE_USE_FSDP"):
        monkeypatch.delenv(variable, raising=False)
    assert launched() == Processes()
    assert launched().tell("value") == "value"
    alone = detect(TrainSettings()).threads
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert launched() == Processes(index=3, local_index=1, count=4, local_count=2)
    assert not launched().is_first
    assert detect(TrainSettings()).threads == max(1, alone // 2)


def test_two_processes_train_the_adapter_that_one_trains_with_their_batch(
    home: Path, tiny_base: Path, tmp_path: Path
) -> None:
    data, held_out = tmp_path / "rows.jsonl", tmp_path / "held.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    held_out.write_text("".join(json.dumps(row) + "\n" for row in HELD_OUT))
    settings = TrainSettings(batch_size=4, held_out_steps=3, **SETTINGS)
    one = run(TrainRequest(data, "one", tiny_base, settings, eval_data=held_out))
    options = [f"--set={key}={value}" for key, value in SETTINGS.items()]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
            *("--num_machines", "1", "--num_processes", "2", "--mixed_precision", "no"),
            *("--dynamo_backend", "no", "--main_process_port", "0", "-m", "lorikeet", "train"),
            *("--data", str(data), "--eval-data", str(held_out), "--name", "two", "--json"),
            *("--base", str(tiny_base), "--set=batch_size=2", "--set=held_out_steps=3", *options),
        ],
        cwd=ROOT,
        env={**os.environ, "LORIKEET_HOME": str(home), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    two = json.loads(done.stdout)  # one object: the other process prints nothing
    assert two["version"] == "two@1"
    assert two["training"]["steps"] == one.training["steps"] == 8
    assert two["training"]["losses"] == pytest.approx(one.training["losses"], rel=1e-3)
    assert two["training"]["tokens"] == one.training["tokens"]
    assert two["training"]["trained_tokens"] == one.training["trained_tokens"]
    assert one.evaluation is not None
    assert two["evaluation"]["adapter"]["loss"] == pytest.approx(
        one.evaluation.adapter.loss, rel=1e-3
    )
    assert len(list((home / "runs").glob("two-*"))) == 1
    with Registry.open(RegistrySettings(home=home)) as registry:
        assert sum(version.name == "two" for version in registry.list()) == 1


def test_the_recipe_for_several_gpus_is_one_that_accelerate_takes() -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    config = load_config_from_file(str(RECIPE))
    assert config.distributed_type == "FSDP"
    arguments = launch_command_parser().parse_args(
        ["--config_file", str(RECIPE), "-m", "lorikeet", "train"]
    )
    arguments, _, _ = _validate_launch_command(arguments)
    environment = prepare_multi_gpu_env(arguments)
    assert arguments.use_fsdp
    assert environment["ACCELERATE_USE_FSDP"] == "true"
    assert environment["ACCELERATE_MIXED_PRECISION"] == "bf16"
    assert environment["FSDP_AUTO_WRAP_POLICY"] == "TRANSFORMER_BASED_WRAP"
    assert environment["FSDP_USE_ORIG_PARAMS"] == "false"
    assert environment["FSDP_STATE_DICT_TYPE"] == "FULL_STATE_DICT"
