"""Two replicas of the real engine on the tiny base, by `lorikeet serve --replicas 2`."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from registry import Registry, RegistrySettings, resolve_base
from serve.affinity import preference
from serve.child import child_server, free_port

pytestmark = pytest.mark.timeout(300)
OPTIONS = ["--kv-cache-gib", "0.2", "--max-loras", "2", "--max-num-seqs", "8", "--replicas", "2"]
NAMES = [f"tenant-{number}" for number in range(4)]


def test_each_replica_answers_for_its_adapters(
    tiny_base: Path, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    settings = RegistrySettings(home=tmp_path / "home", database_url=None)
    base = resolve_base(tiny_base, settings)
    with Registry.open(settings) as registry:
        for seed, name in enumerate(NAMES):
            make_adapter(tmp_path / name, base, seed=seed, scale=0.3)
            registry.publish(tmp_path / name, name, base=base)
    homes = {name: int(preference(name, ["0", "1"])[0]) for name in NAMES}
    assert set(homes.values()) == {0, 1}
    metrics = free_port()
    options = ["--base", str(tiny_base), *OPTIONS, "--metrics-port", str(metrics)]
    env = {"LORIKEET_HOME": str(settings.home), "LORIKEET_DATABASE_URL": ""}
    with (
        child_server(options, tmp_path / "log", env=env) as child,
        httpx.Client(base_url=child.url, timeout=120) as client,
    ):

        def ask(model: str) -> str:
            answer = client.post(
                "/v1/chat/completions",
                json={
                    "model": model,
                    "messages": [{"role": "user", "content": "Tell me about the sea."}],
                    "max_tokens": 12,
                    "temperature": 0,
                    "ignore_eos": True,
                },
            )
            assert answer.status_code == 200, answer.text
            return str(answer.json()["choices"][0]["message"]["content"])

        def answered(name: str) -> float:
            """Of the adapter's requests, those that its own replica answered."""
            url = f"http://127.0.0.1:{metrics + homes[name]}/metrics"
            lines = httpx.get(url, timeout=10).text.splitlines()
            wanted = f'lorikeet_requests_total{{endpoint="chat",model="{name}@1",status="200"}}'
            return sum(float(line.split()[1]) for line in lines if line.startswith(wanted))

        said = {model: ask(model) for model in (base.id, *NAMES)}
        assert len(set(said.values())) == len(said)
        before = {name: answered(name) for name in NAMES}
        assert {model: ask(model) for model in said} == said
        assert {name: answered(name) - before[name] for name in NAMES} == dict.fromkeys(NAMES, 1)
