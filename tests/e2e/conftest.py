"""One home, one training run and one server on the real engine for the whole session."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from registry import DEFAULT_BASE, Base, Registry, RegistrySettings
from serve.child import child_server

ROOT = Path(__file__).parents[2]
ROWS = ROOT / "train" / "examples" / "opl" / "train.jsonl"
HELD_OUT = ROWS.with_name("heldout.jsonl")
SOURCE_ROWS = 6
MAX_LORAS = 4


def lorikeet(home: Path, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "lorikeet", *arguments],
        env=_environment(home),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def _environment(home: Path) -> dict[str, str]:
    import os

    return {**os.environ, "LORIKEET_HOME": str(home)}


@pytest.fixture(scope="session")
def e2e_home(tmp_path_factory: pytest.TempPathFactory, embedded_base: Base) -> Path:
    """A data folder of the session's own, with the base model that is made already."""
    home = tmp_path_factory.mktemp("e2e") / "home"
    (home / "bases").mkdir(parents=True)
    (home / "bases" / DEFAULT_BASE).symlink_to(embedded_base.path, target_is_directory=True)
    return home


@pytest.fixture(scope="session")
def trained(e2e_home: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """`lorikeet train` on the six source rows: a real QLoRA run; the name of the adapter."""
    rows = tmp_path_factory.mktemp("rows") / "opl.jsonl"
    lines = ROWS.read_text().splitlines()[:SOURCE_ROWS]
    rows.write_text("\n".join(lines) + "\n")
    done = lorikeet(
        e2e_home,
        *("train", "--data", str(rows), "--eval-data", str(HELD_OUT), "--name", "opl"),
        *("--set", "epochs=12", "--set", "batch_size=2", "--set", "learning_rate=0.002"),
        *("--set", "rank=8", "--set", "baselines=false", "--set", "max_eval_rows=4"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return "opl"


@pytest.fixture(scope="session")
def random_adapters(
    e2e_home: Path,
    embedded_base: Base,
    make_adapter: object,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[str]:
    """Three published adapters with random weights, large enough to change every answer."""
    names = []
    with Registry.open(RegistrySettings(home=e2e_home)) as registry:
        for seed in range(3):
            folder = tmp_path_factory.mktemp("random") / f"random-{seed}"
            make_adapter(folder, embedded_base, rank=4 << seed, seed=seed, scale=0.05)  # type: ignore[operator]
            registry.publish(folder, f"random-{seed}", base=embedded_base, origin="test")
            names.append(f"random-{seed}")
    return names


@pytest.fixture(scope="session")
def server(
    e2e_home: Path,
    trained: str,
    random_adapters: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """The address of `lorikeet serve` on the real engine."""
    log = tmp_path_factory.mktemp("server") / "server.log"
    options = ["--max-loras", str(MAX_LORAS), "--kv-cache-gib", "0.5"]
    with child_server(options, log, env={"LORIKEET_HOME": str(e2e_home)}) as child:
        yield child.url


@pytest.fixture(scope="session")
def client(server: str) -> OpenAI:
    """The unmodified client."""
    return OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0, timeout=300)


@pytest.fixture(scope="session")
def questions() -> list[tuple[str, str]]:
    """The source's questions and answers."""
    pairs = []
    for line in ROWS.read_text().splitlines()[:SOURCE_ROWS]:
        question, _, answer = json.loads(line)["text"].partition("[/INST]")
        pairs.append((question.partition("[INST]")[2].strip(), answer.replace("</s>", "").strip()))
    return pairs
