"""Debian's Prometheus scrapes servers under Locust's load: each of our expressions has an answer.

One server is the echo engine with tenants, limits, more adapters than places and a training job;
the other one is the session's, for vLLM's own metrics.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from monitored import PANELS, RULES, Shown, labels_in_texts
from openai import OpenAI
from prometheus_server import Prometheus, program, running_prometheus

from deploy.monitoring.rules import Alert, Recorded
from registry import DEFAULT_BASE, Base, Registry, RegistrySettings, resolve_base
from registry.finetuning.objects import FINE_TUNE
from registry.finetuning.request import JobRequest
from serve.child import child_server

ADAPTERS = ("a", "b", "c")
BROKEN = "broken"
LOAD_SECONDS = 20
SCRAPE_SECONDS = 2
WINDOWS = {"$__rate_interval": "16s", "$__range": "30s"}
CHOICES = ("$job", "$instance", "$model", "$tenant", "$training")
OPTIONS = (
    *("--engine", "echo", "--max-loras", "2", "--max-loaded", "2", "--max-num-seqs", "2"),
    *("--max-queue", "1", "--max-queue-per-tenant", "1"),
)


@dataclass(frozen=True)
class Loaded:
    """A Prometheus that has seen the load; `at` is a Unix time when it was on."""

    prometheus: Prometheus
    at: float

    def samples(self, expression: str) -> Any:
        """What a panel shows of it."""
        for name, window in WINDOWS.items():
            expression = expression.replace(name, window)
        for name in CHOICES:
            expression = expression.replace(f'"{name}"', '".*"')
        return self.prometheus.query(expression, self.at)


@dataclass(frozen=True)
class Home:
    """A data folder and the keys in it."""

    path: Path
    ops: str
    acme: str
    globex: str


@pytest.fixture(scope="module")
def home_with_all(
    tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, make_adapter: Any
) -> Home:
    """Three adapters, three tenants, a job that runs, one that waits, and a worker."""
    folder = tmp_path_factory.mktemp("monitored")
    settings = RegistrySettings(home=folder / "home", database_url=None)
    base = resolve_base(tiny_base, settings)
    with Registry.open(settings) as registry:
        for seed, name in enumerate((*ADAPTERS, BROKEN)):
            make_adapter(folder / name, base, seed=seed)
            version = registry.publish(folder / name, name, base=base)
        shutil.rmtree(version.path)
        _, ops = registry.keys.create("ops", admin=True)
        _, acme = registry.keys.create("acme")
        _, globex = registry.keys.create("globex", rpm=3)
        _train(registry, base)
    return Home(settings.home, ops, acme, globex)


def _train(registry: Registry, base: Base) -> None:
    with registry.files.receiving() as incoming:
        incoming.write(b'{"messages": []}\n')
        file = registry.files.add(incoming, tenant="acme", purpose=FINE_TUNE, filename="rows.jsonl")
    request = JobRequest.model_validate({"model": base.id, "training_file": file.id})
    for _ in range(2):
        registry.jobs.create(request, tenant="acme", base=base, place=str(base.path))
    queue = registry.queue
    queue.seen("worker", ["cpu"], "training")
    for _ in range(2):
        validation = queue.claim_validation("worker", lease_seconds=600)
        assert validation is not None
        validation.validated({"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 1})
    running = queue.claim_training("worker", lease_seconds=600)
    assert running is not None
    for step in (1, 2):
        figures = {
            "step": step,
            "total_steps": 10,
            "train_loss": 1.0 / step,
            "train_mean_token_accuracy": 0.5,
            "epoch": 0.3 * step,
            "learning_rate": 5e-4,
            "tokens": 400 * step,
            "tokens_per_second": 100.0,
        }
        running.metrics(step, f"Step {step}/10: training loss={1.0 / step:.2f}", figures)


@pytest.fixture(scope="module")
def loaded(
    home_with_all: Home,
    tiny_base: Path,
    server: str,
    client: OpenAI,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Loaded]:
    """Both servers under load, for as long as the rates of the panels need."""
    program("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    env = {"LORIKEET_HOME": str(home_with_all.path)}
    options = [*OPTIONS, "--base", str(tiny_base)]
    with child_server(options, folder / "server.log", env=env) as echo:
        scrapes = [
            {
                "job_name": "echo",
                "authorization": {"credentials": home_with_all.ops},
                "static_configs": [{"targets": [echo.url.removeprefix("http://")]}],
            },
            {
                "job_name": "vllm",
                "static_configs": [{"targets": [server.removeprefix("http://")]}],
            },
        ]
        (folder / "prometheus").mkdir()
        with running_prometheus(
            folder / "prometheus", scrapes, seconds=SCRAPE_SECONDS
        ) as prometheus:
            _refused(echo.url, home_with_all)
            _load(echo.url, home_with_all.acme, folder / "locust.log", client)
            yield Loaded(prometheus, time.time())


def _refused(url: str, home: Home) -> None:
    """What the load has too little of: limits, a load that fails, a server that is draining."""
    body = {"model": "a", "messages": [{"role": "user", "content": "Good evening"}]}
    chat = f"{url}/v1/chat/completions"
    ops, globex = ({"authorization": f"Bearer {key}"} for key in (home.ops, home.globex))
    answers = [httpx.post(chat, json=body, headers=globex).status_code for _ in range(5)]
    assert {200, 429} == set(answers)
    broken = httpx.post(chat, json=body | {"model": BROKEN}, headers=ops)
    assert broken.status_code in {400, 503}, broken.text
    httpx.post(f"{url}/admin/drain", headers=ops).raise_for_status()
    assert httpx.post(chat, json=body, headers=ops).status_code == 503
    httpx.post(f"{url}/admin/resume", headers=ops).raise_for_status()


def _load(url: str, key: str, log: Path, client: OpenAI) -> None:
    """Locust on the one server, and meanwhile the other one is asked one thing after the other."""
    command = [
        *(sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--headless"),
        *("--host", url, "--adapters", ",".join(ADAPTERS), "--zipf", "0", "--api-key", key),
        *("--users", "6", "--spawn-rate", "6", "--run-time", f"{LOAD_SECONDS}s"),
        *("--max-tokens", "16", "--think-seconds", "0.02"),
    ]
    with log.open("wb") as output:
        locust = subprocess.Popen(
            command, cwd=Path(__file__).parents[2], stdout=output, stderr=output
        )
    try:
        while locust.poll() is None:
            for model in (DEFAULT_BASE, "random-0"):
                client.chat.completions.create(
                    model=model, messages=[{"role": "user", "content": "Hello"}], max_tokens=4
                )
    finally:
        locust.kill()
        locust.wait()
    assert "output tokens/s" in log.read_text(), log.read_text()


def test_both_servers_are_scraped(loaded: Loaded) -> None:
    targets = {target["labels"]["job"]: target for target in loaded.prometheus.targets()}
    assert set(targets) == {"echo", "vllm"}
    assert {target["health"] for target in targets.values()} == {"up"}, targets
    assert loaded.samples('lorikeet_requests_total{job="echo", status="200"}')


@pytest.mark.parametrize("shown", PANELS, ids=str)
def test_every_panel_shows_something(loaded: Loaded, shown: Shown) -> None:
    samples = loaded.samples(shown.expr)
    assert samples, shown.expr
    missing = shown.labels - samples[0].labels.keys()
    assert not missing, f"{shown.expr} has no {missing} for its legend"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: getattr(rule, "record", rule.__class__))
def test_every_rule_finds_something(loaded: Loaded, rule: Recorded | Alert) -> None:
    if isinstance(rule, Recorded):
        assert loaded.samples(rule.record), rule.expr
        return
    for condition in rule.conditions:  # an alert's expression is empty while nothing is wrong
        samples = loaded.samples(condition.value)
        assert samples, condition.value
        assert labels_in_texts(rule) <= samples[0].labels.keys()
    loaded.samples(rule.expr)


def test_prometheus_evaluates_every_rule(loaded: Loaded) -> None:
    rules = loaded.prometheus.rules()
    assert len(rules) == len(RULES)
    assert [rule for rule in rules if rule["health"] != "ok"] == []
