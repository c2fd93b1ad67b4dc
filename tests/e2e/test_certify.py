"""The hand-off on the real engine: what was trained is what is served, and else it is told."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from registry import Registry, RegistrySettings
from train.evaluation.subject import Rows, find_subject
from train.handoff.agreement import compare_scores
from train.handoff.certificate import Reference, Served, certify
from train.handoff.certify_version import scored_rows
from train.handoff.score_server import ScoreServer
from train.progress import SilentReporter

HELD_OUT = Path(__file__).parents[2] / "train" / "examples" / "opl" / "heldout.jsonl"
ROWS = 8
Command = Callable[..., Any]


@pytest.fixture(scope="module")
def version(e2e_home: Path, trained: str) -> Any:
    with Registry.open(RegistrySettings(home=e2e_home)) as registry:
        return registry.get(trained)


@pytest.fixture(scope="module")
def rows(e2e_home: Path, version: Any) -> Any:
    """Held-out rows of the source's data as token ids."""
    settings = RegistrySettings(home=e2e_home)
    asked = Rows(HELD_OUT, shots=0, most=ROWS)
    return scored_rows(find_subject(version, asked, settings, SilentReporter()))


def test_a_trained_adapter_is_served_as_it_was_trained(
    command: Command, version: Any, server: str
) -> None:
    done = command(
        *("adapters", "certify", version.reference, "--url", server),
        *("--data", str(HELD_OUT), "--rows", str(ROWS), "--json"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    certificate = json.loads(done.stdout)["certificate"]
    assert certificate["passed"] is True
    assert (certificate["rows"], certificate["engine"]["dtype"]) == (ROWS, "float32")
    assert certificate["engine"]["vllm"].startswith("0.32")
    assert certificate["tokens"] > 5 * ROWS
    assert 0 < certificate["max_difference"] < certificate["tolerance"]["max"]
    assert certificate["adapter_base_difference"] > 0.5
    losses = certificate["loss"]
    assert losses["served"] == pytest.approx(losses["unquantised"], abs=1e-4)
    assert losses["merged"] == pytest.approx(losses["nf4"], abs=1e-3)
    shown = command("adapters", "show", version.reference, "--json")
    assert json.loads(shown.stdout)["manifest"]["certificate"] == certificate


def test_what_is_not_the_trained_adapter_does_not_pass(
    version: Any, rows: Any, server: str, random_adapters: list[str]
) -> None:
    asked = ScoreServer(server)
    right, base = asked.scores(version.reference, rows), asked.scores(None, rows)
    reference = Reference(right.scores, right.scores, right.scores, None, "none")
    assert certify(version, rows, Served(right, base), reference).passed
    for model in (None, random_adapters[0]):
        wrong = asked.scores(model, rows)
        certificate = certify(version, rows, Served(wrong, base), reference)
        assert not certificate.passed
        assert certificate.agreement.mean > 100 * certificate.tolerance.mean
        assert any("has other weights" in problem for problem in certificate.problems)
    assert "with the adapter and without" in " ".join(
        certify(version, rows, Served(base, base), reference).problems
    )


def test_scores_are_the_same_in_a_crowd(
    version: Any, rows: Any, server: str, client: OpenAI, random_adapters: list[str]
) -> None:
    """Prompts that are scored share steps with answers of other adapters."""
    asked, rows = ScoreServer(server), rows[:4]
    alone = asked.scores(version.reference, rows)

    def chat(model: str) -> str:
        answer = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "Tell me about the sea."}],
            max_tokens=16,
            temperature=0,
        )
        return answer.choices[0].message.content or ""

    models = [*random_adapters, version.reference]
    quiet = [chat(model) for model in models]
    with ThreadPoolExecutor(len(models)) as pool:
        answers = [pool.submit(chat, model) for model in models]
        crowded = asked.scores(version.reference, rows)
        loud = [answer.result() for answer in answers]
    found = compare_scores(alone.scores, crowded.scores)
    assert found.max < 1e-3
    assert found.top1 == 1.0
    assert sum(a == b for a, b in zip(quiet, loud, strict=True)) >= len(models) - 1


def test_an_adapter_that_no_evaluation_speaks_for_is_kept_out(
    command: Command, trained: str
) -> None:
    """The session's `opl` was trained with `baselines=false`."""
    refused = command("adapters", "promote", trained, "1")
    assert refused.returncode == 1
    assert f"lorikeet eval {trained}@1" in refused.stderr
