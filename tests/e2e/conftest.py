"""One home, one training run and one server on the real engine for the whole session."""

import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from openai import OpenAI

from registry import DEFAULT_BASE, Base, Registry, RegistrySettings, resolve_base
from serve.child import child_server

ROOT = Path(__file__).parents[2]
ROWS = ROOT / "train" / "examples" / "opl" / "train.jsonl"
HELD_OUT = ROWS.with_name("heldout.jsonl")
SOURCE_ROWS = 6
MAX_LORAS = 4


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is in this folder needs the machine to itself, but for what says otherwise."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and not item.get_closest_marker("beside"):
            item.add_marker("e2e")


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
def command(e2e_home: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`command("train", "--data", …)` runs lorikeet on the session's data folder."""
    return functools.partial(lorikeet, e2e_home)


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


TINY_ADAPTERS = ("a", "b", "c")
TINY_SETTINGS = {
    "LORIKEET_SERVE_PING_SECONDS": "0.5",
    "LORIKEET_SERVE_HANG_SECONDS": "4",
    "LORIKEET_SERVE_DRAIN_SECONDS": "20",
    "LORIKEET_SERVE_LOAD_TIMEOUT_SECONDS": "30",
}
TINY_OPTIONS = ("--kv-cache-gib", "0.2", "--max-loras", "2", "--max-num-seqs", "8")


@dataclass(frozen=True)
class Served:
    """A server on the tiny base with three adapters, and a client with an admin key."""

    url: str
    pid: int
    client: httpx.Client
    home: Path
    base: Base

    @property
    def models(self) -> list[str]:
        return [self.base.id, *TINY_ADAPTERS]

    def body(self, model: str, **fields: Any) -> dict[str, Any]:
        return {
            "model": model,
            "messages": [{"role": "user", "content": "Tell me about the sea."}],
            "max_tokens": 12,
            "temperature": 0,
            "ignore_eos": True,
        } | fields

    def ask(self, model: str, **fields: Any) -> httpx.Response:
        return self.client.post("/v1/chat/completions", json=self.body(model, **fields))

    def answers(self) -> dict[str, str]:
        """What every model says, greedily; each must answer."""
        said = {}
        for model in self.models:
            answer = self.ask(model)
            assert answer.status_code == 200, (model, answer.text)
            said[model] = answer.json()["choices"][0]["message"]["content"]
        return said

    def engine(self) -> psutil.Process:
        """EngineCore: a child of the process that it is forked off, not of the server."""
        family = psutil.Process(self.pid).children(recursive=True)
        (core,) = (process for process in family if process.ppid() != self.pid)
        return core

    def wait_ready(self, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while self.client.get("/ready").status_code != 200:
            assert time.monotonic() < deadline, "the engine did not come up again"
            time.sleep(0.1)

    def metric(self, name: str) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@pytest.fixture(scope="session")
def tiny_home(
    tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, make_adapter: Any
) -> tuple[Path, str]:
    """A data folder with three adapters on the tiny base, and an admin key."""
    home = tmp_path_factory.mktemp("failures") / "home"
    settings = RegistrySettings(home=home, database_url=None)
    base = resolve_base(tiny_base, settings)
    with Registry.open(settings) as registry:
        for seed, name in enumerate(TINY_ADAPTERS):
            folder = tmp_path_factory.mktemp("adapters") / name
            make_adapter(folder, base, seed=seed, scale=0.3)
            registry.publish(folder, name, base=base)
        _, secret = registry.keys.create("ops", admin=True)
    return home, secret


@pytest.fixture(scope="session")
def serve(
    tiny_home: tuple[Path, str], tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    """`with serve() as served:` starts the server; more options can be given."""
    home, secret = tiny_home
    base = resolve_base(tiny_base, RegistrySettings(home=home, database_url=None))

    @contextmanager
    def serving(*more: str) -> Iterator[Served]:
        env = {**TINY_SETTINGS, "LORIKEET_HOME": str(home)}
        options = ["--base", str(tiny_base), *TINY_OPTIONS, *more]
        headers = {"authorization": f"Bearer {secret}"}
        with (
            child_server(options, tmp_path_factory.mktemp("serve") / "log", env=env) as child,
            httpx.Client(base_url=child.url, headers=headers, timeout=60) as client,
        ):
            yield Served(child.url, child.pid, client, home, base)

    return serving
