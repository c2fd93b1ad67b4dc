"""A server whose shared store goes away: what is here is served on, the rest is put off."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from object_store import S3Server

from registry import Registry, RegistrySettings
from serve import quarantine, registry_link

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("store", ["s3"], indirect=True)
async def test_without_the_store_what_is_here_goes_on(
    store: Any,
    s3_server: S3Server,
    run: Any,
    publish: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(registry_link, "STORE_SECONDS", 0.05)
    monkeypatch.setattr(quarantine, "FIRST_SECONDS", 0.05)
    for seed, name in enumerate(("warm", "cached", "cold")):
        publish(name, seed=seed)
    elsewhere = RegistrySettings(home=tmp_path / "elsewhere", database_url=RegistrySettings().url)
    with Registry.open(elsewhere) as registry:
        async with run(registry=registry, max_loaded=1, max_loras=1) as running:

            async def store_is(how: str) -> dict[str, str]:
                async with asyncio.timeout(30):
                    while True:
                        ready = await running.client.get("/ready")
                        assert ready.status_code == 200
                        if ready.json()["store"].startswith(how):
                            return dict(ready.json())
                        await asyncio.sleep(0.02)

            for name in ("cached", "warm"):
                assert (await running.chat(name)).status_code == 200
            assert (await store_is("up"))["registry"] == "up"
            assert "\nlorikeet_store_up 1.0\n" in (await running.client.get("/metrics")).text
            await asyncio.to_thread(s3_server.stop)

            await store_is("away since 20")
            (told,) = [it.message for it in caplog.records if "the store is away" in it.message]
            assert "does not answer" in told
            assert "check the store" in told
            assert "\nlorikeet_store_up 0.0\n" in (await running.client.get("/metrics")).text
            assert (await running.chat("warm")).status_code == 200
            assert (await running.chat("cached")).status_code == 200
            refused = await running.chat("cold")
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "adapter_unavailable"
            assert refused.headers["retry-after"]
            s3_server.start()

            await store_is("up")
            async with asyncio.timeout(30):
                while (await running.chat("cold")).status_code != 200:
                    await asyncio.sleep(0.02)


async def test_a_defect_in_asking_the_store_does_not_end_the_asking(
    registry: Registry,
    run: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(registry_link, "STORE_SECONDS", 0.05)
    answers: list[str] = []

    def ask() -> None:
        answers.append("odd" if len(answers) < 2 else "")
        if answers[-1]:
            raise ValueError(answers[-1])

    monkeypatch.setattr(registry, "ask_store", ask)
    async with run() as running:
        async with asyncio.timeout(30):
            while len(answers) < 5:
                await asyncio.sleep(0.02)
        assert running.service.link.status()["store"] == "up"
    (told,) = [it for it in caplog.records if "the store is away" in it.message]
    assert told.message.endswith(": odd")
    assert told.exc_info
    assert "the store is back" in caplog.messages
