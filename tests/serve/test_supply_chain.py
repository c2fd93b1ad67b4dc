"""vLLM's advisories about what is loaded and what listens: no code, no pickles, no other port."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from registry import AdapterRejected, RegistrySettings, UnknownBase, hub, resolve_base
from registry.adapter_folder import ADAPTER_FILES

pytestmark = pytest.mark.anyio


class Opened(Exception):
    """A pickle was read."""


class Evil:
    def __reduce__(self) -> Any:
        return (_opened, ())


def _opened() -> None:
    raise Opened


@pytest.mark.parametrize(
    "name", ["adapter_model.bin", "adapter_model.safetensors", "training_args.bin"]
)
def test_a_pickle_is_never_opened(
    registry: Any, base: Any, tmp_path: Path, make_adapter: Callable[..., Path], name: str
) -> None:
    """CVE-2025-24357: weights in a pickle run code when they are read."""
    folder = tmp_path / "evil"
    make_adapter(folder, base)
    weights = folder / "adapter_model.safetensors"
    if name == "adapter_model.bin":
        weights.unlink()
    (folder / name).write_bytes(pickle.dumps(Evil()))
    if name == "training_args.bin":
        version = registry.publish(folder, "evil", base=base)
        assert not list(version.path.rglob(name))
    else:
        with pytest.raises(AdapterRejected):
            registry.publish(folder, "evil", base=base)


@pytest.mark.parametrize(
    "advisory",
    ["CVE-2025-66448", "CVE-2026-22807", "CVE-2026-27893", "CVE-2026-41523", "CVE-2026-90553"],
)
def test_code_beside_weights_is_neither_kept_nor_run(
    registry: Any, base: Any, tmp_path: Path, make_adapter: Callable[..., Path], advisory: str
) -> None:
    folder = tmp_path / advisory
    make_adapter(folder, base)
    (folder / "modeling.py").write_text("raise SystemExit")
    version = registry.publish(folder, "plain", base=base)
    kept = {path.name for path in version.path.rglob("*") if path.is_file()}
    assert set(ADAPTER_FILES) <= kept
    assert not {name for name in kept if name.endswith((".py", ".bin", ".pt", ".pkl"))}


def test_a_hub_model_is_fetched_without_code_and_pinned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """CVE-2025-66448 and its kin: data files only, at one commit."""
    asked: dict[str, Any] = {}

    def download(repository: str, **options: Any) -> str:
        asked.update(options)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    hub.fetch("a/b", "0" * 40, None)
    assert asked["revision"] == "0" * 40
    assert not [p for p in asked["allow_patterns"] if p.endswith((".py", ".bin", ".pt", "*"))]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_a_base_of_pickles_is_refused(
    tiny_base: Path, home: Path, tmp_path: Path, name: str
) -> None:
    """CVE-2025-24357: also of a base only safetensors are read."""
    folder = tmp_path / "pickled"
    folder.mkdir()
    for file in tiny_base.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    (folder / name).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UnknownBase, match="safetensors"):
        resolve_base(folder, RegistrySettings(home=home))


@pytest.mark.parametrize(
    "option", ["--trust-remote-code", "--enable-prompt-embeds", "--middleware"]
)
def test_the_engine_is_not_told_to_trust(option: str) -> None:
    """CVE-2025-66448, CVE-2025-62164: what the engine is started with."""
    folder = Path(__file__).parents[2] / "serve"
    assert not [p for p in folder.rglob("*.py") if option in p.read_text()]


@pytest.mark.parametrize(
    "advisory", ["CVE-2025-32444", "CVE-2025-47277", "CVE-2025-30165", "CVE-2025-30202"]
)
async def test_no_port_is_open_but_the_servers(run: Any, free_server: Any, advisory: str) -> None:
    """Ports between the nodes of an engine, which took pickles: there are none."""

    def listening() -> set[tuple[str, int]]:
        own = psutil.Process(os.getpid())
        return {
            (found.laddr.ip, found.laddr.port)
            for process in (own, *own.children(recursive=True))
            for found in process.net_connections("inet")
            if found.status == psutil.CONN_LISTEN
        }

    before = listening()
    async with run() as running, free_server(running.app) as url:
        assert (await running.chat("tiny")).status_code == 200
        opened = listening() - before
    assert opened == {("127.0.0.1", httpx.URL(url).port)}
