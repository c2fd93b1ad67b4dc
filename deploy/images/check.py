"""`python -m deploy.images.check server`: the Dockerfile's install steps, run without Docker.

They are read from the Dockerfile and run as they stand, in a clean virtual environment in a
temporary folder, with nothing beside it but what the Dockerfile copies. Then the image's program is
tried there: the server answers a request, the trainer trains a step. Takes minutes and 5 GB.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Literal

import httpx

from serve.child import free_port

ROOT = Path(__file__).parents[2]
DOCKERFILE = Path(__file__).with_name("Dockerfile")
INSTALLED = "/opt/lorikeet"
READY_SECONDS = 300


@dataclass(frozen=True)
class Instruction:
    """One of a Dockerfile, of the stage of that name; `text` is what follows its keyword."""

    stage: str
    keyword: str
    text: str


def instructions(dockerfile: str) -> Iterator[Instruction]:
    """In their order, each on one line; what comes before the first stage has the stage ""."""
    lines = (line for line in dockerfile.splitlines() if not line.lstrip().startswith("#"))
    stage = ""
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        keyword, _, text = line.strip().partition(" ")
        if keyword == "FROM":
            stage = text.split(" AS ")[1]
        if keyword:
            yield Instruction(stage, keyword, text)


def install(image: str, folder: Path) -> dict[str, str]:
    """Run the steps of `image`'s install stages below `folder`; the environment to run it in."""
    environment = {name: it for name, it in os.environ.items() if not name.startswith("PYTHON")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.defpath}"
    place = folder
    for step in instructions(DOCKERFILE.read_text(encoding="utf-8")):
        if step.stage not in ("", "install", f"{image}-install"):
            continue
        text = step.text.replace(INSTALLED, str(folder / "venv"))
        if step.keyword in ("ARG", "ENV"):
            for assignment in shlex.split(text):
                name, given, value = assignment.partition("=")
                if given:
                    environment[name] = Template(value).substitute(environment)
        elif step.keyword == "WORKDIR":
            place = folder / text.lstrip("/")
            place.mkdir(parents=True)
        elif step.keyword == "COPY":
            _copy(*text.split(), to=place)
        elif step.keyword == "RUN":
            command = re.sub(r"--mount=\S+\s+", "", text)
            print(f"RUN {command}", flush=True)
            subprocess.run(["sh", "-c", command], cwd=place, env=environment, check=True)
    return environment


def _copy(*names: str, to: Path) -> None:
    *sources, target = names
    for source in (ROOT / name for name in sources):
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, to / target, ignore=ignored, dirs_exist_ok=True)
        else:
            shutil.copy(source, to / target)


def try_server(environment: dict[str, str], folder: Path) -> None:
    """Start it on the embedded base and ask it once. Raises where it does not answer."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    serve = ["lorikeet", "serve", "--port", str(port)]
    with subprocess.Popen(serve, cwd=folder, env=environment) as server:
        try:
            end = time.monotonic() + READY_SECONDS
            while not _is_ready(url):
                if server.poll() is not None or time.monotonic() > end:
                    raise SystemExit("the server did not become ready")
                time.sleep(1)
            ask = ["lorikeet", "ask", "smollm2-135m-instruct", "Hello?", "--url", f"{url}/v1"]
            subprocess.run([*ask, "--max-tokens", "8"], cwd=folder, env=environment, check=True)
        finally:
            server.terminate()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready").is_success
    except httpx.TransportError:
        return False


def try_trainer(environment: dict[str, str], folder: Path) -> None:
    """Train one step on the embedded base, and look for jobs."""
    rows = ROOT / "train" / "examples" / "opl" / "train.jsonl"
    quick = ("max_steps=1", "max_eval_rows=1", "max_new_tokens=2", "baselines=false")
    train = ["lorikeet", "train", "--data", str(rows), "--name", "opl"]
    train += [argument for setting in quick for argument in ("--set", setting)]
    subprocess.run(train, cwd=folder, env=environment, check=True)
    subprocess.run(["lorikeet", "worker", "--once"], cwd=folder, env=environment, check=True)


TRIALS = {"server": try_server, "trainer": try_trainer}


def main(image: Literal["server", "trainer"]) -> None:
    """Install `image`, and try it."""
    with tempfile.TemporaryDirectory(prefix="lorikeet-image-") as name:
        folder = Path(name)
        environment = {**install(image, folder), "LORIKEET_HOME": str(folder / "data")}
        TRIALS[image](environment, folder)
        size = sum(it.lstat().st_size for it in (folder / "venv").rglob("*") if it.is_file())
        print(f"{image}: installed and tried; {size / 1e9:.1f} GB")


if __name__ == "__main__":
    import typer

    typer.run(main)
