"""Serving with adapters on vLLM's CUDA build: the certificate, isolation, throughput."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.gpu.row import Figures, NotMet, Skipped
from deploy.gpu.training import EXAMPLE, TRAINED

if TYPE_CHECKING:
    import httpx

    from registry import Base

_ADAPTERS = tuple(f"gpu-check-{letter}" for letter in "abcd")
_QUESTIONS = (
    "Who made the OPL programming language?",
    "Tell me about the sea.",
    "Count from one to ten.",
    "What is a lorikeet?",
)
_TOKENS, _LOADED_TOKENS, _AT_ONCE = 32, 128, 64
_TIE = 0.25
"""Nats between the two likeliest tokens under which bfloat16's rounding may choose either."""

Answer = Sequence[tuple[str, float]]
"""Tokens, each with the distance to the runner-up in nats."""


def parity() -> Figures:
    """`lorikeet adapters certify` on the version that `train-nf4` has published."""
    from registry import Registry

    with Registry.open() as registry:
        if not any(version.name == TRAINED for version in registry.list()):
            raise Skipped("train-nf4 has published nothing")
    command = ["adapters", "certify", TRAINED, "--rows", "8", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "lorikeet", *command, "--data", str(EXAMPLE / "heldout.jsonl")],
        capture_output=True,
        text=True,
        check=False,
    )
    if not done.stdout:
        lines = done.stderr.strip().splitlines() or ["certify said nothing"]
        raise NotMet(lines[-1][:300])
    certificate = json.loads(done.stdout)["certificate"]
    agreement = certificate["agreement"]
    figures = {
        "tokens": int(agreement["tokens"]),
        "largest difference": float(agreement["max"]),
        "mean": float(agreement["mean"]),
        "likeliest alike": float(agreement["top1"]),
    }
    if not certificate["passed"]:
        raise NotMet("; ".join(certificate["problems"]), figures)
    return figures


def isolation() -> Figures:
    """The base and 4 adapters say in one batch what each says alone, but for ties; and how fast."""
    with _served() as (client, base):
        models = (base, *_ADAPTERS)
        asked = [(model, question) for model in models for question in _QUESTIONS]
        alone = [_ask(client, *each) for each in asked]
        with ThreadPoolExecutor(len(asked)) as pool:
            mixed = list(pool.map(lambda each: _ask(client, *each), asked))
        speed = {
            "tokens/s, base": _throughput(client, [base]),
            "tokens/s, base and adapters": _throughput(client, list(models)),
        }
    texts = [tuple(token for token, _ in answer) for answer in alone]
    count = len(_QUESTIONS)
    by_model = {tuple(texts[start : start + count]) for start in range(0, len(texts), count)}
    same = ties = 0
    for one, other in zip(alone, mixed, strict=True):
        apart = _first_difference(one, other)
        same += apart is None
        ties += apart is not None and one[apart][1] < _TIE
    figures = {"answers": len(asked), "alike": same, "apart at a tie": ties, **speed}
    if same + ties < len(asked):
        raise NotMet(f"{len(asked) - same - ties} answers change beside others", figures)
    if len(by_model) < len(models):
        raise NotMet("an adapter does not change the answers", figures)
    return figures


def _first_difference(one: Answer, other: Answer) -> int | None:
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a[0] != b[0]), None)


@contextmanager
def _served() -> Iterator[tuple["httpx.Client", str]]:
    """A server on the embedded base with four random adapters, and the base's id."""
    import httpx

    from registry import DEFAULT_BASE, Registry, RegistrySettings, resolve_base
    from serve.child import child_server

    settings = RegistrySettings()
    base = resolve_base(DEFAULT_BASE, settings)
    with Registry.open(settings) as registry:
        for seed, name in enumerate(_ADAPTERS):
            registry.publish(_random_adapter(base, seed, settings.home / name), name, base=base)
    log = settings.home / "gpu-check-server.log"
    with (
        child_server(["--max-loras", str(len(_ADAPTERS))], log, env=dict(os.environ)) as server,
        httpx.Client(base_url=server.url, timeout=120, trust_env=False) as client,
    ):
        yield client, base.id


def _random_adapter(base: "Base", seed: int, folder: Path) -> Path:
    """An adapter that changes answers, and leaves them text."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=16, target_modules="all-linear")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base.path), config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    model.peft_config["default"].base_model_name_or_path = base.id
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    return folder


def _ask(client: "httpx.Client", model: str, question: str) -> Answer:
    answer = client.post(
        "/v1/chat/completions",
        json=_body(model, question, _TOKENS) | {"logprobs": True, "top_logprobs": 2},
    )
    answer.raise_for_status()
    tokens = answer.json()["choices"][0]["logprobs"]["content"]
    return [(token["token"], _margin(token["top_logprobs"])) for token in tokens]


def _margin(likeliest: list[dict[str, Any]]) -> float:
    first, second = sorted((each["logprob"] for each in likeliest), reverse=True)[:2]
    return float(first - second)


def _throughput(client: "httpx.Client", models: list[str]) -> float:
    """Output tokens a second of requests that come all at once."""
    bodies = [
        _body(models[index % len(models)], _QUESTIONS[index % len(_QUESTIONS)], _LOADED_TOKENS)
        | {"ignore_eos": True}
        for index in range(_AT_ONCE)
    ]

    def ask(body: dict[str, Any]) -> int:
        answer = client.post("/v1/chat/completions", json=body)
        answer.raise_for_status()
        return int(answer.json()["usage"]["completion_tokens"])

    begun = time.perf_counter()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        tokens = sum(pool.map(ask, bodies))
    return tokens / (time.perf_counter() - begun)


def _body(model: str, question: str, tokens: int) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": tokens,
        "temperature": 0,
    }
