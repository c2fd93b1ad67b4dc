"""`lorikeet top` against a running server, and on a terminal."""

import asyncio
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from lorikeet import app

LEFT = "\x1b[?1049l"
"""What brings the terminal's own screen back."""
SHOWN = "\x1b[?25h"
"""What shows the cursor."""


def top(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["top", *arguments])


def free_url() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.anyio
async def test_once(
    run: Callable[..., Any], free_server: Callable[..., Any], publish: Callable[..., Any]
) -> None:
    """One picture, and as JSON, of what is asked in the meantime."""
    publish("opl")
    async with run() as running, free_server(running.app) as url:

        async def ask() -> None:
            while True:
                assert (await running.chat("opl")).status_code == 200
                await asyncio.sleep(0.01)

        asking = asyncio.create_task(ask())
        arguments = ("--url", f"{url}/v1", "--interval", "0.3", "--once")
        drawn = await asyncio.to_thread(top, *arguments)
        told = await asyncio.to_thread(top, *arguments, "--json")
        asking.cancel()
    assert drawn.exit_code == 0, drawn.output
    assert running.service.base.id in drawn.output
    assert re.search(r"^opl@1 ", drawn.output, re.MULTILINE)
    frame = json.loads(told.output)
    (opl,) = (model for model in frame["models"] if model["model"] == "opl@1")
    assert opl["traffic"]["requests_per_second"] > 0
    assert opl["traffic"]["output_tokens_per_second"] > 0
    assert 0 < opl["traffic"]["ttft_p50_seconds"] <= opl["traffic"]["ttft_p95_seconds"]
    assert frame["server"]["ready"] is True
    assert frame["server"]["up_seconds"] is not None


@pytest.mark.parametrize("options", [["--once"], ["--once", "--json"]])
def test_once_of_a_server_that_is_away_fails(
    options: list[str],
) -> None:
    result = top("--url", free_url(), *options)
    assert result.exit_code != 0
    assert "no server answers" in str(result.exception)


def test_without_a_terminal_it_says_what_to_do() -> None:
    result = top("--url", free_url())
    assert "there is no terminal" in str(result.exception)


@pytest.mark.parametrize(
    ("end", "code"), [(b"q", 0), (b"\x03", 130), (signal.SIGTERM, 0)], ids=["q", "ctrl-c", "term"]
)
def test_live_it_says_that_the_server_is_away_and_leaves_the_terminal_clean(
    end: bytes | signal.Signals, code: int
) -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    command = ["setsid", "--ctty", sys.executable, "-m", "lorikeet"]  # Ctrl-C has to reach it
    command += ["top", "--url", free_url(), "--interval", "0.2"]
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "LINES": "24", "COLUMNS": "100"},
    )
    try:
        shown = b""
        while b"asking again" not in shown:
            shown += os.read(ours, 65536)
        if isinstance(end, bytes):
            os.write(ours, end)
        else:
            process.send_signal(end)
        assert process.wait(60) == code
        assert termios.tcgetattr(theirs) == before
        os.set_blocking(ours, False)
        shown += os.read(ours, 65536)
    finally:
        process.kill()
        process.wait()
        os.close(theirs)
        os.close(ours)
    text = shown.decode()
    assert text.rindex(LEFT) > text.rindex("asking again")
    assert SHOWN in text
    assert "Traceback" not in text
