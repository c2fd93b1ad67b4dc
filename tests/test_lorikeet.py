"""The front door: help that is fast and teaches, errors that name the remedy, exit codes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lorikeet import app

COMMANDS = [
    [],
    ["train"],
    ["eval"],
    ["serve"],
    ["ask"],
    ["top"],
    ["adapters"],
    *(["adapters", name] for name in ("list", "show", "promote", "rollback", "release")),
    *(["adapters", name] for name in ("import", "check", "verify", "remove")),
    ["keys"],
    *(["keys", name] for name in ("create", "list", "revoke")),
    ["worker"],
    ["jobs"],
    *(["jobs", name] for name in ("list", "show", "follow", "cancel", "pause", "resume")),
    *(["jobs", name] for name in ("prioritize", "workers")),
]
HEAVY = {"torch", "vllm", "transformers", "trl", "peft", "datasets", "openai", "numpy"}


def lorikeet(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lorikeet", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "120", "NO_COLOR": "1"},
    )


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_help_teaches(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output
    if command not in ([], ["adapters"], ["keys"], ["jobs"]):
        assert f"lorikeet {' '.join(command)}" in result.output.replace("\n", " ")
        assert "Example" in result.output


@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["train", "--help"],
        ["worker", "--help"],
        ["top", "--help"],
        ["adapters", "list"],
        ["keys", "list"],
        ["jobs", "list"],
    ],
)
def test_help_and_registry_commands_import_nothing_heavy(command: list[str], home: Path) -> None:
    script = (
        "import sys, lorikeet\n"
        f"sys.argv = ['lorikeet', *{command!r}]\n"
        "try:\n    lorikeet.main()\nexcept SystemExit:\n    pass\n"
        f"print(sorted({HEAVY!r} & sys.modules.keys()), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.strip().splitlines()[-1] == "[]"


def test_version() -> None:
    assert lorikeet("--version").stdout.startswith("lorikeet 0.")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["serve", "--base", "smollm"], 1, "smollm2-135m-instruct"),
        (["serve", "--max-lora-rank", "7"], 2, "--max-lora-rank"),
        (["serve", "--max-loras", "9", "--max-loaded", "4"], 2, "max_loaded"),
        (["serve", "--host", "0.0.0.0"], 2, "--insecure"),
        (["serve", "--prot", "1"], 2, "--port"),
        (["adapters", "show", "nobody"], 1, "nobody"),
        (["adapters", "promote", "Bad Name", "1"], 2, "name"),
        (["keys", "create", "--tenant", "Bad Name"], 2, "a-z"),
        (["keys", "revoke", "0123"], 1, "lorikeet keys list"),
        (["jobs", "cancel", "ftjob-0"], 1, "lorikeet jobs list"),
        (["ask", "opl", "hi", "--url", "http://127.0.0.1:9/v1"], 1, "lorikeet serve"),
        (["train", "--data", "missing.jsonl", "--name", "x"], 2, "missing.jsonl"),
        (["eval", "nobody"], 1, "nobody"),
        (["eval", "nobody", "--shots", "65"], 2, "--shots"),
    ],
)
def test_mistakes_are_told_with_their_remedy(
    home: Path, arguments: list[str], code: int, words: str
) -> None:
    done = lorikeet(*arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_told_before_anything_starts(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = lorikeet("serve", "--engine", "echo", "--port", str(port))
    assert done.returncode == 1
    assert f"port {port} of 127.0.0.1 is in use" in done.stderr
    assert f"--port {port + 1}" in done.stderr


def test_lists_come_as_json(home: Path) -> None:
    assert json.loads(lorikeet("adapters", "list", "--json").stdout) == []
