"""Locust's users on one server, in a process of their own.

    with Swarm(Crowd(users=8, seconds=30), url, ["--base-model", "smollm2"], records) as swarm:
        answers = swarm.join()

Leaving the context ends the process, whatever happened.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from loadtests.answer import Answer
from registry import LorikeetError

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
DRAIN_SECONDS = 120
"""How long answers may take that are under way when the users stop asking."""
SLACK_SECONDS = 60
"""What Locust may take beyond that to start and to end."""

SAID = re.compile(r"/ERROR/loadtests: (.*)")
"""In Locust's log: why the users could not ask."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """Who asks: `users` at the same time for `seconds`, for answers of at most `max_tokens`.

    `whole`: of exactly that many. `noisy_key` is the noisy tenant's, where a shape has one.
    """

    users: int
    seconds: int
    max_tokens: int = 64
    think_seconds: float = 0.0
    api_key: str = ""
    drain_seconds: int = DRAIN_SECONDS
    seed: int = 0
    whole: bool = True
    noisy_key: str = ""


class Swarm:
    """One run of Locust. Every answer is in `records`, a JSON line each; its log is beside it."""

    def __init__(self, crowd: Crowd, url: str, models: Sequence[str], records: Path) -> None:
        """`models` are the locustfile's options that say whom to ask."""
        self._crowd = crowd
        self._records = records
        self._log = records.with_suffix(".log")
        command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--host", url]
        command += ["--headless", "--only-summary", "--exit-code-on-error", "0"]
        command += ["--whole"] if crowd.whole else []
        for option, value in (
            ("--users", crowd.users),
            ("--spawn-rate", crowd.users),
            ("--run-time", f"{crowd.seconds}s"),
            ("--stop-timeout", crowd.drain_seconds),
            ("--max-users", crowd.users),
            ("--max-seconds", crowd.seconds + crowd.drain_seconds + SLACK_SECONDS),
            ("--max-tokens", crowd.max_tokens),
            ("--think-seconds", crowd.think_seconds),
            ("--seed", crowd.seed),
            ("--records", records),
        ):
            command += [option, str(value)]
        self._command = [*command, *models]

    def __enter__(self) -> Self:
        self._records.unlink(missing_ok=True)
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                self._command,
                env={
                    **os.environ,
                    "OPENAI_API_KEY": self._crowd.api_key,
                    "NOISY_API_KEY": self._crowd.noisy_key,
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def wait(self, seconds: float) -> bool:
        """Wait for the end of the run, at most this long; whether it has come.

        Raises: LorikeetError where Locust failed.
        """
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        if code != 0:
            text = self._log.read_text(errors="replace")
            said = list(dict.fromkeys(SAID.findall(text)))
            raise LorikeetError(
                f"Locust ended with exit code {code}: {'; '.join(said) or text[-500:].strip()}",
                remedy="run it by hand: " + " ".join(self._command),
            )
        return True

    def stop(self) -> None:
        """Tell the users to stop asking; answers under way get their time to end."""
        self._process.send_signal(signal.SIGTERM)

    def join(self) -> list[Answer]:
        """Wait for the end of the run; every answer, the failed ones too.

        Raises: LorikeetError where Locust failed or does not end.
        """
        crowd = self._crowd
        limit = crowd.seconds + crowd.drain_seconds + SLACK_SECONDS
        if not self.wait(limit):
            raise LorikeetError(
                f"Locust has not ended after {limit} seconds", remedy=f"read {self._log}"
            )
        return [Answer.from_json(line) for line in self._records.read_text().splitlines()]
