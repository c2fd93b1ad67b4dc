"""The compose file: valid, pinned, with every file that it mounts, and right for the server."""

import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_server import program
from settings_names import known_variables
from typer.testing import CliRunner

from deploy.monitoring.__main__ import DEPLOY
from lorikeet import app
from registry import Registry
from serve.server import ERROR_SECONDS
from serve.settings import ServeSettings
from train.worker.settings import WorkerSettings

FOLDER = DEPLOY / "compose"
FILES = (FOLDER / "compose.yaml", FOLDER / "compose.gpu.yaml")
COMPOSE: dict[str, Any] = yaml.safe_load(FILES[0].read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
EXAMPLE = (FOLDER / "env.example").read_text()
OURS = ("server", "first-key", "worker")
FROM_OUTSIDE = {"HF_TOKEN"}


def test_the_compose_specification_allows_it() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "check_jsonschema",
            "--builtin-schema",
            "vendor.compose-spec",
            *FILES,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_docker_accepts_it(tmp_path: Path) -> None:
    docker = shutil.which("docker")
    if (
        docker is None
        or subprocess.run([docker, "compose", "version"], capture_output=True).returncode
    ):
        pytest.skip("docker's compose plug-in is not installed")
    filled = tmp_path / ".env"
    filled.write_text(re.sub(r"=$", "=x", EXAMPLE, flags=re.M))
    files = [argument for file in FILES for argument in ("--file", str(file))]
    done = subprocess.run(
        [docker, "compose", "--env-file", str(filled), *files, "config", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_everything_that_is_mounted_is_there() -> None:
    volumes = [it for service in SERVICES.values() for it in service.get("volumes", [])]
    named = {it.split(":")[0] for it in volumes if not it.startswith(".")}
    assert named == COMPOSE["volumes"].keys()
    bound = [FOLDER / it.split(":")[0] for it in volumes if it.startswith(".")]
    assert len(bound) >= 5
    for path in bound:
        assert path.exists(), path


def test_images_are_pinned_and_built_by_our_file() -> None:
    targets = set(
        re.findall(r"^FROM \S+ AS (\S+)", (DEPLOY / "images/Dockerfile").read_text(), re.M)
    )
    for name, service in SERVICES.items():
        tag = service["image"].rpartition(":")[2]
        if name in OURS:
            assert f"{{LORIKEET_VERSION:-{version('lorikeet')}}}-cpu" in service["image"]
        else:
            assert re.fullmatch(r"v?\d+\.\d+(\.\d+)?(-\w+)?", tag), service["image"]
        if build := service.get("build"):
            assert (FOLDER / build["context"] / build["dockerfile"]).samefile(
                DEPLOY / "images/Dockerfile"
            )
            assert build["target"] in targets


def test_the_gpu_file_changes_what_is_there() -> None:
    changed = yaml.safe_load(FILES[1].read_text())["services"]
    assert changed.keys() == set(OURS)
    for name, service in changed.items():
        assert service["image"] == SERVICES[name]["image"].replace("-cpu", "-gpu")


def test_every_variable_is_a_setting_and_every_blank_is_in_the_example() -> None:
    for name in OURS:
        assert SERVICES[name]["environment"].keys() - known_variables() - FROM_OUTSIDE == set()
    text = "".join(file.read_text() for file in FILES)
    needed = set(re.findall(r"\$\{(\w+):\?", text)) | {
        COMPOSE["secrets"]["admin-key"]["environment"]
    }
    assert needed <= set(re.findall(r"^(\w+)=$", EXAMPLE, re.M))
    assert set(re.findall(r"^(\w+)=", EXAMPLE, re.M)) <= set(re.findall(r"\w+", text))


def test_no_port_but_the_machines_own() -> None:
    for service in SERVICES.values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), port


def test_ours_run_with_nothing_that_they_do_not_need() -> None:
    for name in OURS:
        assert SERVICES[name]["cap_drop"] == ["ALL"]
        assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]
        assert SERVICES[name]["read_only"] is (name != "first-key")


def test_stopping_waits_for_the_drain_and_the_checkpoint() -> None:
    seconds = {
        name: int(SERVICES[name]["stop_grace_period"].rstrip("s")) for name in ("server", "worker")
    }
    assert seconds["server"] >= ServeSettings().drain_seconds + ERROR_SECONDS + 20
    assert seconds["worker"] >= WorkerSettings().grace_seconds + 20


def test_the_key_of_the_example_is_made_by_the_first_service(home: Path, tmp_path: Path) -> None:
    (line,) = re.findall(r"^#   (python3 -c .*)$", EXAMPLE, re.M)
    made = subprocess.run(
        [sys.executable, *shlex.split(line)[1:]], capture_output=True, text=True, check=True
    )
    file = tmp_path / "admin-key"
    file.write_text(made.stdout)
    command = SERVICES["first-key"]["command"]
    done = CliRunner().invoke(app, [str(file) if it.startswith("/run") else it for it in command])
    assert done.exit_code == 0, done.output
    with Registry.open() as registry:
        key = registry.keys.find(made.stdout.strip())
    assert key is not None
    assert key.admin


def test_prometheus_scrapes_the_server_and_grafana_asks_prometheus(tmp_path: Path) -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    ((target,),) = (it["static_configs"][0]["targets"] for it in config["scrape_configs"])
    host, port = target.split(":")
    assert SERVICES[host]["environment"]["LORIKEET_SERVE_METRICS_PORT"] == port
    assert f"{host}:{port}" not in str(SERVICES[host].get("ports"))
    (source,) = yaml.safe_load((FOLDER / "grafana/datasources.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((FOLDER / "grafana/dashboards.yaml").read_text())["providers"]
    mounts = dict(it.split(":")[:2] for it in SERVICES["grafana"]["volumes"])
    assert mounts["../grafana"] == provider["options"]["path"]


def test_promtool_accepts_what_prometheus_gets(tmp_path: Path) -> None:
    for mount in SERVICES["prometheus"]["volumes"]:
        source, target = mount.split(":")[:2]
        if source.startswith("."):
            shutil.copy(FOLDER / source, tmp_path / Path(target).name)
    done = subprocess.run(
        [program("promtool"), "check", "config", str(tmp_path / "prometheus.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
