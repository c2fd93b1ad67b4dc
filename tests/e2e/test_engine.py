"""VLLMEngine itself, on the tiny base: adapters, broken numbers, death and restart."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from safetensors.numpy import load_file, save_file

from registry import Base, Limits, RegistrySettings, check_adapter, resolve_base
from serve.engine import EngineAdapter, GenerationRequest, GenerationStats
from serve.engine.factory import create_engine
from serve.engine.vllm import VLLMEngine
from serve.errors import AdapterUnavailable, EngineNotReady, OutputNotFinite
from serve.settings import ServeSettings

pytestmark = pytest.mark.anyio

MAX_MODEL_LEN = 512
KV_TOKENS = 4096
ENOUGH = 5.5e4  # just below what the preflight takes for too large


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Base:
    return resolve_base(tiny_base, RegistrySettings(home=tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def adapters(
    base: Base, make_adapter: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, EngineAdapter]:
    """Two good ones, and two that pass every check and overflow inside the model.

    `bad` makes infinities and so NaN; `vast` makes finite numbers whose squares are infinite, of
    which the norm makes zeros, and those equal logits.
    """
    root = tmp_path_factory.mktemp("adapters")
    folders = {
        "good": make_adapter(root / "good", base, seed=1, scale=0.3),
        "other": make_adapter(root / "other", base, seed=2, scale=0.3, rank=4),
        "bad": make_adapter(root / "bad", base, alpha=8000),
        "vast": make_adapter(root / "vast", base, alpha=4000),
    }
    for name, shape in (("bad", np.ones_like), ("vast", np.sign)):
        weights = folders[name] / "adapter_model.safetensors"
        tensors = load_file(weights)
        save_file({k: shape(v) * np.float32(ENOUGH) for k, v in tensors.items()}, weights)
    for folder in folders.values():
        problems = check_adapter(folder, base, Limits())
        assert not [p for p in problems if p.severity == "error"], problems
    return {
        name: EngineAdapter(f"{name}@1+0123456789ab", number, folder)
        for number, (name, folder) in enumerate(folders.items(), start=1)
    }


@pytest.fixture(scope="module")
def _environment() -> Iterator[None]:
    """What the engine sets for its own processes ends with these tests."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
async def engine(
    base: Base,
    _environment: None,
    strangers: set[psutil.Process],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[VLLMEngine]:
    settings = ServeSettings(
        max_loras=2,
        max_loaded=4,
        max_model_len=MAX_MODEL_LEN,
        kv_cache_gib=KV_TOKENS * 2 * 2 * 32 * 4 / 1024**3,  # layers, K and V, one head, float32
    )
    created = create_engine(settings, base, RegistrySettings(home=tmp_path_factory.mktemp("home")))
    assert isinstance(created, VLLMEngine)
    await created.start()
    yield created
    await created.stop()


@pytest.fixture
async def loaded(
    engine: VLLMEngine, adapters: dict[str, EngineAdapter]
) -> AsyncIterator[dict[str, EngineAdapter]]:
    for adapter in adapters.values():
        await engine.load(adapter)
    yield adapters
    for adapter in adapters.values():
        await engine.unload(adapter)


class Asked:
    """Asks the engine, and keeps what it reports."""

    def __init__(self, engine: VLLMEngine, base: Base) -> None:
        self.engine, self.base = engine, base
        self.stats: list[GenerationStats] = []
        self._numbers = iter(range(10**6))

    def request(
        self, adapter: EngineAdapter | None, text: str, salt: str, **fields: Any
    ) -> GenerationRequest:
        chat = {"messages": [{"role": "user", "content": text}]}
        body: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}
        model = self.base.id if adapter is None else adapter.name.partition("+")[0]
        return GenerationRequest(
            "chat",
            body | chat | fields,
            model,
            adapter,
            f"request-{next(self._numbers)}",
            salt,
            self.stats.append,
        )

    async def __call__(
        self,
        adapter: EngineAdapter | None,
        text: str = "hello there",
        salt: str = "a",
        **fields: Any,
    ) -> str:
        answer = await self.engine.generate(self.request(adapter, text, salt, **fields))
        assert isinstance(answer, dict)
        content: str = answer["choices"][0]["message"]["content"]
        return content

    async def stream(
        self, adapter: EngineAdapter | None, text: str = "hello there", **fields: Any
    ) -> AsyncGenerator[str, None]:
        answer = await self.engine.generate(self.request(adapter, text, "a", stream=True, **fields))
        assert isinstance(answer, AsyncGenerator)
        return answer


@pytest.fixture
def ask(engine: VLLMEngine, base: Base) -> Asked:
    return Asked(engine, base)


def cores() -> set[psutil.Process]:
    """Every engine's process under this one, those of the session's servers too."""
    family = psutil.Process().children(recursive=True)
    return {child for child in family if "EngineCore" in " ".join(child.cmdline())}


@pytest.fixture(scope="module")
def strangers() -> set[psutil.Process]:
    """The engines that were there before this module's."""
    return cores()


def core(strangers: set[psutil.Process]) -> psutil.Process:
    """The engine's process."""
    (process,) = cores() - strangers
    return process


async def _collect(stream: AsyncGenerator[str, None], events: list[str]) -> None:
    async for event in stream:
        events.append(event)


def totals(engine: VLLMEngine) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(engine.metrics().decode()):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


async def test_adapters_differ_from_the_base_and_from_each_other(
    ask: Asked, loaded: dict[str, EngineAdapter]
) -> None:
    answers = {await ask(a) for a in (None, loaded["good"], loaded["other"])}
    assert len(answers) == 3


async def test_each_request_gets_its_own_figures(
    ask: Asked, loaded: dict[str, EngineAdapter], engine: VLLMEngine
) -> None:
    await asyncio.gather(ask(loaded["good"], max_tokens=5), ask(None, max_tokens=7))
    assert sorted((s.model, s.output_tokens) for s in ask.stats) == [
        ("good@1", 5),
        (ask.base.id, 7),
    ]
    ask.stats.clear()
    await ask(None, n=3, max_tokens=4, temperature=1)
    assert sorted((s.choice, s.output_tokens) for s in ask.stats) == [(0, 4), (1, 4), (2, 4)]
    ask.stats.clear()
    request = ask.request(None, "", "a", prompt=["one", "two"], max_tokens=4)
    del request.body["messages"]
    await engine.generate(
        GenerationRequest(
            "completions", request.body, "tiny", None, "prompts", on_stats=ask.stats.append
        )
    )
    assert [s.output_tokens for s in ask.stats] == [4, 4]
    assert all(s.ttft_seconds > 0 and len(s.gaps) == 3 for s in ask.stats)


async def test_the_prefix_cache_is_shared_within_a_salt_only(ask: Asked) -> None:
    text = "word " * 300
    for salt in ("one", "one", "two"):
        await ask(None, text, salt)
    cached = [s.cached_tokens for s in ask.stats]
    assert cached[0] == cached[2] == 0
    assert cached[1] > 128


async def test_its_threads_are_one_openmp_runtimes(
    engine: VLLMEngine, strangers: set[psutil.Process]
) -> None:
    """Intel's answers for GNU's, whose threads spin where they wait: they stop beside others."""
    mapped = {Path(each.path).name for each in core(strangers).memory_maps()}
    assert "libiomp5.so" in mapped


async def test_a_closed_stream_frees_its_place(ask: Asked, engine: VLLMEngine) -> None:
    stream = await ask.stream(None, max_tokens=400)
    await anext(stream)
    assert totals(engine)["vllm:num_requests_running"] == 1
    await stream.aclose()
    await ask(None)
    assert totals(engine)["vllm:num_requests_running"] == 0


async def test_an_adapter_without_files_is_refused_and_harms_nobody(
    ask: Asked, engine: VLLMEngine, tmp_path: Path
) -> None:
    before = await ask(None)
    with pytest.raises(AdapterUnavailable):
        await engine.load(EngineAdapter("gone@1+0", 99, tmp_path / "gone"))
    assert await ask(None) == before
    assert engine.alive


async def test_broken_numbers_are_never_delivered_and_harm_nobody_else(
    ask: Asked, loaded: dict[str, EngineAdapter], engine: VLLMEngine
) -> None:
    """Alone, in one batch with others, and in the blocks of the KV cache that they leave."""
    good, bad, vast = loaded["good"], loaded["bad"], loaded["vast"]
    texts = [f"{number} {'sea ' * (40 * number)}" for number in range(1, 6)]
    cases = [(adapter, text) for adapter in (None, good) for text in texts]
    before = [await ask(*case, salt="before") for case in cases]

    with pytest.raises(OutputNotFinite) as whole:
        await ask(bad)
    assert "bad@1" in whole.value.message
    assert str(bad.path) not in whole.value.message
    events: list[str] = []
    with pytest.raises(OutputNotFinite):
        await _collect(await ask.stream(bad), events)
    assert not [event for event in events if '"content":"' in event.replace('"content":""', "")]

    with pytest.raises(OutputNotFinite):
        await ask(vast)

    async def broken(text: str, number: int) -> None:
        several = {"n": 2, "temperature": 1} if number % 2 else {}
        with pytest.raises(OutputNotFinite):
            await ask(bad, f"{number} {text}", salt=f"bad-{number}", **several)

    async def together() -> list[str]:
        broken_ones = [broken(text, number) for number, text in enumerate(texts * 2)]
        answers = await asyncio.gather(*(ask(*case, salt="during") for case in cases), *broken_ones)
        return [answer for answer in answers if answer is not None]

    for _ in range(3):
        assert await together() == before
    for number in range(3):  # more tokens than the cache has: every block is used again
        assert [await ask(*case, salt=f"after-{number}") for case in cases] == before
    await ask(None)
    assert totals(engine)["vllm:num_requests_running"] == 0


async def test_killed_three_times_it_starts_again_and_answers_the_same(
    ask: Asked,
    engine: VLLMEngine,
    strangers: set[psutil.Process],
    adapters: dict[str, EngineAdapter],
) -> None:
    await engine.load(adapters["good"])
    expected = await ask(None), await ask(adapters["good"])
    for _ in range(3):
        stream = await ask.stream(None, max_tokens=400)
        await anext(stream)
        pending = asyncio.create_task(engine.ping())
        process = core(strangers)
        process.kill()
        died = time.monotonic()
        with pytest.raises(EngineNotReady):
            await _collect(stream, [])
        (answer,) = await asyncio.gather(pending, return_exceptions=True)
        assert isinstance(answer, EngineNotReady)
        while engine.alive:
            await asyncio.sleep(0.01)
        assert time.monotonic() - died < 3
        for call in (engine.ping(), engine.load(adapters["other"]), ask(None)):
            with pytest.raises(EngineNotReady):
                await call
        await engine.stop()
        assert not process.is_running()
        await engine.start()
        await engine.load(adapters["good"])
        assert (await ask(None), await ask(adapters["good"])) == expected
        families = [
            family.name for family in text_string_to_metric_families(engine.metrics().decode())
        ]
        assert len(families) == len(set(families))
        assert "vllm:num_requests_running" in families
    await engine.unload(adapters["good"])


async def test_a_hung_engine_is_ended_within_seconds(
    ask: Asked,
    engine: VLLMEngine,
    strangers: set[psutil.Process],
    adapters: dict[str, EngineAdapter],
) -> None:
    expected = await ask(None)
    process = core(strangers)
    os.kill(process.pid, signal.SIGSTOP)
    waiting = [
        asyncio.create_task(work)
        for work in (ask(None), engine.ping(), engine.load(adapters["good"]))
    ]
    done, _ = await asyncio.wait(waiting, timeout=0.5)
    assert not done
    began = time.monotonic()
    await engine.stop()
    assert time.monotonic() - began < 10
    assert not process.is_running()
    for task in waiting:
        with pytest.raises(EngineNotReady):
            await task
    assert not engine.alive
    await engine.start()
    assert await ask(None) == expected


async def test_the_engine_is_out_of_reach_of_the_terminal(
    engine: VLLMEngine, strangers: set[psutil.Process]
) -> None:
    assert os.getsid(core(strangers).pid) != os.getsid(0)
