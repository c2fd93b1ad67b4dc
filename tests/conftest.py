"""What every package's tests share: a fresh data folder, a tiny base model, adapters for it."""

import gc
import json
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from object_store import Folder, S3Server, Store
from postgres_cluster import Postgres, binaries
from safetensors.numpy import save_file
from scheduling import Turns, place

from registry import DEFAULT_BASE, Base, Registry, RegistrySettings, resolve_base
from registry.base_modules import linear_modules

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TINY_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,  # a multiple of 32: what vLLM's attention takes on every CPU
    "vocab_size": 49152,
    "max_position_embeddings": 2048,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "dtype": "float32",
}
COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
)


class MakeAdapter(Protocol):
    """Writes a valid PEFT adapter for `base` into `folder` and returns it.

    A and B are normal with standard deviation `scale`; equal arguments write equal bytes.
    """

    def __call__(
        self,
        folder: Path,
        base: Base | Path,
        *,
        rank: int = 8,
        alpha: float = 16,
        targets: Sequence[str] = ALL_LINEAR,
        seed: int = 0,
        scale: float = 0.02,
    ) -> Path: ...


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> None:
    """A shell starts background jobs with SIGINT ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def embedded_base() -> Base:
    """The embedded base in the data folder of whoever runs the tests; made there the first time."""
    return resolve_base(DEFAULT_BASE, RegistrySettings())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedded_base: Base) -> Path:
    """A fresh LORIKEET_HOME that has the embedded base already."""
    home = tmp_path / "home"
    (home / "bases").mkdir(parents=True)
    (home / "bases" / DEFAULT_BASE).symlink_to(embedded_base.path, target_is_directory=True)
    monkeypatch.setenv("LORIKEET_HOME", str(home))
    for name in ("LORIKEET_DATABASE_URL", "LORIKEET_STORE_URL", "LORIKEET_CACHE_BYTES"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory, embedded_base: Base) -> Path:
    """Folder of a random 2-layer Llama (hidden 64, 2 heads over 1) with SmolLM2's tokenizer."""
    folder = tmp_path_factory.mktemp("bases") / "tiny"
    folder.mkdir()
    for name in COMPANIONS:
        shutil.copyfile(embedded_base.path / name, folder / name)
    (folder / "config.json").write_text(json.dumps(TINY_CONFIG, indent=2))
    random = np.random.default_rng(0)
    shapes = {"model.embed_tokens": (49152, 64)}
    tensors = {"model.norm.weight": np.ones(64, dtype=np.float32)}
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}.{norm}.weight"] = np.ones(64, dtype=np.float32)
        for name, features in (("q", 64), ("k", 32), ("v", 32), ("o", 64)):
            shapes[f"{prefix}.self_attn.{name}_proj"] = (features, 64)
        shapes[f"{prefix}.mlp.gate_proj"] = shapes[f"{prefix}.mlp.up_proj"] = (128, 64)
        shapes[f"{prefix}.mlp.down_proj"] = (64, 128)
    for name, shape in shapes.items():
        tensors[f"{name}.weight"] = random.normal(0, 0.02, shape).astype(np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def make_adapter() -> MakeAdapter:
    """The function that writes adapters, as `MakeAdapter` says."""
    return _write_adapter


def _write_adapter(
    folder: Path,
    base: Base | Path,
    *,
    rank: int = 8,
    alpha: float = 16,
    targets: Sequence[str] = ALL_LINEAR,
    seed: int = 0,
    scale: float = 0.02,
) -> Path:
    random = np.random.default_rng(seed)
    path = base if isinstance(base, Path) else base.path
    tensors = {}
    for module, (outputs, inputs) in linear_modules(path).items():
        if module.rpartition(".")[2] in targets:
            for half, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
                values = random.normal(0, scale, shape).astype(np.float32)
                tensors[f"base_model.model.{module}.lora_{half}.weight"] = values
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": path.name if isinstance(base, Path) else base.id,
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted(targets),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def registry(home: Path) -> Iterator[Registry]:
    """The registry in `home`."""
    with Registry.open(RegistrySettings()) as opened:
        yield opened


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server, ended with the session; LORIKEET_REQUIRE_POSTGRES makes it a must."""
    programs = binaries()
    if programs is None:
        reason = "PostgreSQL 15 or later is not installed: apt-get install postgresql"
        if os.environ.get("LORIKEET_REQUIRE_POSTGRES"):
            pytest.fail(reason)
        pytest.skip(reason)
    server = Postgres(programs)
    yield server
    server.end()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A server of S3's API."""
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture(params=["s3", "file"])
def store(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Run the test with either shared store, an empty one that LORIKEET_STORE_URL names."""
    found: Store = Folder(home.parent / "store")
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        found = server.bucket()
    monkeypatch.setenv("LORIKEET_STORE_URL", found.url)
    return found


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(
    request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Run the test on either database, an empty one that `home`'s registry is in; its URL.

    A test module opts in with `pytestmark = pytest.mark.usefixtures("database_url")`.
    """
    if request.param == "sqlite":
        yield RegistrySettings().url
        return
    server: Postgres = request.getfixturevalue("postgres")
    url = server.fresh()
    monkeypatch.setenv("LORIKEET_DATABASE_URL", url)
    yield url


def pytest_configure(config: pytest.Config) -> None:
    """Beside other tests, torch computes with one thread: several that wait spin on every core."""
    if hasattr(config, "workerinput"):
        os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes minutes comes first."""
    items.sort(key=lambda item: place(item.path.relative_to(config.rootpath)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Turns:
    """Of the processes that `-n` asks for."""
    return Turns(config, log)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was imported to find the tests stays: no garbage collection walks it again.

    With torch and vLLM among it each full one took 0.7 s, every third test.
    """
    gc.collect()
    gc.freeze()
