"""The whole of Lorikeet on one machine: train two adapters, publish, serve, ask, measure.

    python -m deploy.demo            (or `make demo`)
    python -m deploy.demo --again    train anew what is published already

Everything runs for real: bitsandbytes trains, vLLM serves, the unmodified openai client asks.
The adapters stay in the registry (LORIKEET_HOME).
"""

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from openai import AsyncOpenAI
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from registry import DEFAULT_BASE, Registry, RegistrySettings, UnknownAdapter
from registry.terminal import run_command
from serve.child import ChildFailed, child_server
from train.handoff.admin_key import admin_key

EXAMPLES = Path(__file__).parent.parent / "train" / "examples"
QUESTIONS = 6
HEADLINES = 4
AT_ONCE = 8
console = Console(highlight=False)


@dataclass(frozen=True)
class Example:
    """One of the two adapters of the demo, and how it is trained here."""

    name: str
    title: str
    options: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Recipe, training rows and held-out rows."""
        return EXAMPLES / self.name

    def heldout(self) -> list[tuple[str, str]]:
        """(question, expected answer) of each held-out row."""
        lines = (self.folder / "heldout.jsonl").read_text().splitlines()
        return [_turns(json.loads(line)) for line in lines]


OPL = Example("opl", "facts about the OPL programming language")
TITULARES = Example(
    "titulares",
    "Spanish headlines into Hogar, Deportes, Electrónica (on a part of the rows, to fit the time;\n"
    "`make titulares` trains on all of them)",
    ("--set", "max_rows=300", "--set", "max_eval_rows=24"),
)


def main(
    again: Annotated[
        bool, typer.Option("--again", help="Train anew what is published already.")
    ] = False,
) -> None:
    """Train, publish, serve and ask, on this machine alone."""
    started = time.monotonic()
    for step, example in enumerate((OPL, TITULARES), 1):
        console.rule(f"[bold]{step}. Train [cyan]{example.name}[/]: {example.title}", align="left")
        _train(example, again)
    console.rule("[bold]3. Serve both on one base model", align="left")
    log = RegistrySettings().home / "demo-server.log"
    with ExitStack() as stack:
        with console.status("Starting the server") as status:

            def on_wait(seconds: float) -> None:
                status.update(f"Starting the server ({seconds:.0f} s)")

            registry = stack.enter_context(Registry.open())
            key = stack.enter_context(admin_key(registry, "lorikeet-demo"))
            server = child_server(["--base", DEFAULT_BASE], log, on_wait=on_wait)
            url = stack.enter_context(server).url
        console.print(f"Ready on {url}/v1 (its log: {log})")
        asyncio.run(_ask_and_measure(url, key or "none"))
    _how_to_go_on(time.monotonic() - started)


def _train(example: Example, again: bool) -> None:
    """`lorikeet train` in a child process, unless it is done already."""
    if not again and (known := _published(example.name)):
        console.print(f"Published already as [bold]{known}[/]; `--again` trains anew.")
        return
    command = [
        *(sys.executable, "-m", "lorikeet", "train", "--name", example.name),
        *("--config", str(example.folder / "recipe.yaml")),
        *("--data", str(example.folder / "train.jsonl")),
        *("--eval-data", str(example.folder / "heldout.jsonl")),
        *example.options,
    ]
    if subprocess.run(command).returncode != 0:
        raise ChildFailed(f"training {example.name} failed", remedy="its own words are above")


def _published(name: str) -> str | None:
    try:
        with Registry.open() as registry:
            return registry.get(name).reference
    except UnknownAdapter:
        return None


async def _ask_and_measure(url: str, key: str) -> None:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        await _ask(client)
        await _classify(client)
        console.rule("[bold]6. The metrics of these requests (GET /metrics)", align="left")
        async with httpx.AsyncClient(headers=client.auth_headers) as plain:
            console.print(_metrics((await plain.get(f"{url}/metrics")).text))


async def _ask(client: AsyncOpenAI) -> None:
    console.rule("[bold]4. Ask base and adapters through the openai client", align="left")
    table = Table("Question", "Base model", "Adapter", "Expected", show_lines=True)
    asked = [(OPL, *row) for row in OPL.heldout()[:: max(1, len(OPL.heldout()) // QUESTIONS)]]
    asked += [(TITULARES, *row) for row in TITULARES.heldout()[:HEADLINES]]
    for example, question, expected in track(asked, "Asking", console=console, transient=True):
        base, adapter = await asyncio.gather(
            _answer(client, DEFAULT_BASE, question), _answer(client, example.name, question)
        )
        table.add_row(_short(question), _short(base), f"[green]{escape(adapter)}[/]", expected)
    console.print(table)


async def _classify(client: AsyncOpenAI) -> None:
    console.rule("[bold]5. Accuracy on held-out headlines that nobody trained on", align="left")
    table = Table("Model", "Right", "Held-out rows", "Accuracy")
    rows = TITULARES.heldout()
    for model in (DEFAULT_BASE, TITULARES.name):
        right = await _right_answers(client, model, rows)
        table.add_row(model, str(right), str(len(rows)), f"{right / len(rows):.1%}")
    console.print(table)


async def _right_answers(client: AsyncOpenAI, model: str, rows: list[tuple[str, str]]) -> int:
    """How many labels the model gives exactly, some requests at a time."""
    right = 0
    batches = [rows[i : i + AT_ONCE] for i in range(0, len(rows), AT_ONCE)]
    for batch in track(batches, f"Classifying with {model}", console=console, transient=True):
        answers = await asyncio.gather(
            *(_answer(client, model, question, max_tokens=8) for question, _ in batch)
        )
        right += sum(a.strip() == label for a, (_, label) in zip(answers, batch, strict=True))
    return right


async def _answer(client: AsyncOpenAI, model: str, question: str, max_tokens: int = 48) -> str:
    completion = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=max_tokens,
    )
    return completion.choices[0].message.content or ""


def _metrics(text: str) -> Table:
    """Requests, tokens and latencies by model, from Prometheus' text format."""
    values: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("lorikeet_") and (model := sample.labels.get("model")):
                key = (sample.name, model)
                values[key] = values.get(key, 0.0) + sample.value

    def mean(metric: str, model: str) -> str:
        count = values.get((f"{metric}_count", model), 0)
        return f"{values[f'{metric}_sum', model] / count * 1000:.0f} ms" if count else "–"

    table = Table("Model", "Requests", "Prompt tokens", "Output tokens", "Mean TTFT", "Mean ITL")
    for model in sorted({model for _, model in values}):
        table.add_row(
            model,
            f"{values.get(('lorikeet_requests_total', model), 0):.0f}",
            f"{values.get(('lorikeet_prompt_tokens_total', model), 0):.0f}",
            f"{values.get(('lorikeet_output_tokens_total', model), 0):.0f}",
            mean("lorikeet_time_to_first_token_seconds", model),
            mean("lorikeet_inter_token_latency_seconds", model),
        )
    return table


def _turns(row: dict[str, Any]) -> tuple[str, str]:
    """Question and answer of a row, in either of the examples' formats."""
    if "messages" in row:
        user, assistant = row["messages"]
        return user["content"], assistant["content"]
    question, _, answer = row["text"].partition("[/INST]")
    return question.partition("[INST]")[2].strip(), answer.replace("</s>", "").strip()


def _short(text: str) -> str:
    """One line for the table; of a classification prompt its headline."""
    headline = re.search(r'^Texto: (".*")$', text, re.MULTILINE)
    line = headline[1] if headline else " ".join(text.split())
    return escape(line if len(line) <= 120 else f"{line[:119]}…")


def _how_to_go_on(seconds: float) -> None:
    console.rule(f"[bold]Done in {seconds / 60:.1f} minutes. How to go on", align="left")
    lines: Iterable[str] = (
        "lorikeet adapters list",
        "lorikeet serve",
        'lorikeet ask opl "Who created OPL?"',
        "lorikeet train --help",
    )
    for line in lines:
        console.print(f"  .venv/bin/{line}")


if __name__ == "__main__":
    run_command(main)
