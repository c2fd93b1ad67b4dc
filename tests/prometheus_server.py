"""Debian's Prometheus for the tests: its data in a temporary folder, on a free port of loopback.

`apt-get install prometheus` is enough; no service is asked.
"""

import math
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from serve.child import free_port

SHIPPED = Path(__file__).parents[1] / "deploy" / "prometheus" / "prometheus.yml"
START_SECONDS = 60


def program(name: str) -> str:
    """Where `prometheus` or `promtool` is; LORIKEET_REQUIRE_PROMETHEUS makes it a must."""
    found = shutil.which(name)
    if found is None:
        reason = f"{name} is not installed: apt-get install prometheus"
        if os.environ.get("LORIKEET_REQUIRE_PROMETHEUS"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@dataclass(frozen=True)
class Sample:
    """An element of an instant vector; never NaN."""

    labels: dict[str, str]
    value: float


class Prometheus:
    """Asks a running one."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def query(self, expression: str, at: float | None = None) -> list[Sample]:
        """What the expression gives, now or at a Unix time. AssertionError: it is no PromQL."""
        data = self._get("query", query=expression, **({} if at is None else {"time": at}))
        assert data["resultType"] == "vector", (expression, data["resultType"])
        samples = [Sample(one["metric"], float(one["value"][1])) for one in data["result"]]
        return [sample for sample in samples if not math.isnan(sample.value)]

    def rules(self) -> list[dict[str, Any]]:
        """All rules with their health."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def targets(self) -> list[dict[str, Any]]:
        """What it scrapes, and how that went."""
        targets: list[dict[str, Any]] = self._get("targets")["activeTargets"]
        return targets

    def _get(self, path: str, **params: Any) -> Any:
        answer = self._client.get(f"/api/v1/{path}", params=params).json()
        assert answer["status"] == "success", (params, answer)
        return answer["data"]


@contextmanager
def running_prometheus(
    folder: Path, scrapes: Sequence[dict[str, Any]], *, seconds: int
) -> Iterator[Prometheus]:
    """The shipped configuration with these `scrape_configs`; scrapes and rules every `seconds`."""
    config = yaml.safe_load(SHIPPED.read_text())
    config["global"] = dict.fromkeys(
        ("scrape_interval", "scrape_timeout", "evaluation_interval"), f"{seconds}s"
    )
    config["rule_files"] = [str(SHIPPED.parent / name) for name in config["rule_files"]]
    config["scrape_configs"] = list(scrapes)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            deadline = time.monotonic() + START_SECONDS
            while not _ready(client):
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.1)
            yield Prometheus(client)
    finally:
        process.terminate()
        process.wait(30)


def _ready(client: httpx.Client) -> bool:
    try:
        return client.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False
