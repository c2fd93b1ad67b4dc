"""The process that EngineCore runs in: begun early, out of the terminal's reach, never orphaned.

vLLM spawns it and lets it import everything anew. Here it is forked off a process of one thread,
which imports vLLM while the server does (and holds it for the next start), leaves the process
group so that a Ctrl-C is the server's to handle, and ends when the server does, however that ends.

Nothing of vLLM is imported at the top: `begin` has to come first.
"""

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from multiprocessing import connection, forkserver
from pathlib import Path
from typing import Any

PRELOAD = "serve.engine.preload"


def begin() -> None:
    """Start the process that EngineCore is forked off; the engine's environment is set by now."""
    loaded = os.environ.get("LD_PRELOAD", "")
    preload = _openmp()
    if preload and "omp" not in loaded:
        os.environ["LD_PRELOAD"] = ":".join(filter(None, [loaded, preload]))
    multiprocessing.get_context("forkserver").set_forkserver_preload([PRELOAD])
    forkserver.ensure_running()


class EngineContext:
    """In the place of vLLM's multiprocessing context."""

    def Process(
        self, *, target: Callable[..., None], name: str, kwargs: dict[str, Any]
    ) -> multiprocessing.process.BaseProcess:
        """A process that calls `target(**kwargs)` in this process's environment."""
        return multiprocessing.get_context("forkserver").Process(
            target=_run, name=name, args=(dict(os.environ), target, kwargs)
        )


def _run(environment: dict[str, str], target: Callable[..., None], kwargs: dict[str, Any]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    with contextlib.suppress(PermissionError):
        os.setsid()
    threading.Thread(target=_end_with_the_server, daemon=True).start()
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        from serve.engine.memory import install

        install()
    target(**kwargs)


def _end_with_the_server() -> None:
    server = multiprocessing.parent_process()
    assert server is not None
    connection.wait([server.sentinel])
    os.kill(os.getpid(), 9)


def _openmp() -> str | None:
    """The OpenMP library to load first, as vLLM's binding of threads to cores needs it.

    Intel's comes with vLLM's build for CPUs. Its threads sleep when they have waited for 5 ms;
    those of PyTorch's own (GNU's) spin, so that one other busy process nearly stops the engine.
    """
    return _intel_openmp() or _torch_openmp()


def _intel_openmp() -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        for file in metadata.files("intel-openmp") or ():
            if file.name == "libiomp5.so":
                place = Path(str(file.locate())).resolve()
                return str(place) if place.is_file() else None
    return None


def _torch_openmp() -> str | None:
    torch = find_spec("torch")
    if torch is None or not torch.submodule_search_locations:
        return None
    folder = Path(torch.submodule_search_locations[0])
    for place in (folder.parent / "torch.libs", folder / "lib"):
        for library in place.glob("libgomp*.so*"):
            return str(library)
    return None
