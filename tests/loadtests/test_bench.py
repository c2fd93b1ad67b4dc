"""The benchmark's own parts: its adapters, its machine, its command line."""

import json
import subprocess
import sys
from pathlib import Path

from loadtests.machine import describe_machine
from loadtests.random_adapters import write_random_adapter
from registry import Limits, RegistrySettings, check_adapter, resolve_base


def test_random_adapters_pass_the_registrys_checks(tmp_path: Path, tiny_base: Path) -> None:
    settings = RegistrySettings(home=tmp_path / "home")
    folder = write_random_adapter(tmp_path / "a", tiny_base, rank=4, seed=1)
    assert check_adapter(folder, resolve_base(tiny_base, settings), Limits()) == []
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["r"] == 4
    assert len(config["target_modules"]) == 7
    other = write_random_adapter(tmp_path / "b", tiny_base, rank=4, seed=2)
    weights = "adapter_model.safetensors"
    assert (folder / weights).read_bytes() != (other / weights).read_bytes()


def test_the_machine_is_described_as_json() -> None:
    described = json.loads(json.dumps(describe_machine()))
    assert described["cores"] >= 1
    assert described["memory_gib"] > 0
    assert described["versions"]["lorikeet"]


def test_help_teaches_and_a_wrong_name_is_refused() -> None:
    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "loadtests.bench", *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    helped = run("--help")
    assert helped.returncode == 0
    assert "python -m loadtests.bench --quick" in helped.stdout
    wrong = run("--servers", "ours,theirs")
    assert wrong.returncode == 2
    assert "theirs: choose of stock, bound, ours" in wrong.stderr
    unknown = run("--only", "zipf,speed")
    assert unknown.returncode == 2
    assert "speed: choose of throughput, zipf, start" in unknown.stderr
