"""Lines on standard error: one a record, whatever is in it, for people and for programs."""

import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import warnings
from typing import Any

import pytest

from registry import Registry
from serve import logs
from serve.logs import HumanFormatter, JsonFormatter, LogFormat
from serve.settings import ServeSettings
from serve.worker_child import _pass_on

NASTY = 'opl"\n2026-01-01 00:00:00.000 ERROR serve: forged\r\x1b[31m\u2028\x85\u202e\udc80'
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}"


def record(message: str, *args: Any, **extra: Any) -> logging.LogRecord:
    logger = logging.getLogger("serve.test")
    return logger.makeRecord(
        "serve.test", logging.INFO, "test.py", 1, message, args, None, extra={"fields": extra}
    )


@pytest.mark.parametrize("formatter", [HumanFormatter(), JsonFormatter()])
def test_what_a_client_sends_stays_inside_its_line(formatter: logging.Formatter) -> None:
    line = formatter.format(record("unknown model %s", NASTY, model=NASTY))
    assert line.isprintable()
    assert line.isascii()
    assert line.count("forged") == 2


def test_a_program_gets_the_text_back_as_it_was() -> None:
    entry = json.loads(JsonFormatter().format(record("unknown model %s", NASTY, model=NASTY)))
    assert entry["message"] == f"unknown model {NASTY}"
    assert entry["model"] == NASTY
    assert entry["level"] == "INFO"
    assert entry["logger"] == "serve.test"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", entry["time"])


def test_people_read_names_and_values_and_no_nothing() -> None:
    line = HumanFormatter().format(
        record("done", model="opl@1", words="two words", seconds=1.23456, tokens=7, key=None)
    )
    said = 'INFO    serve.test: done model=opl@1 words="two words" seconds=1.235 tokens=7'
    assert re.fullmatch(f"{TIME} {re.escape(said)}", line)


def test_a_traceback_never_begins_a_line_at_the_margin() -> None:
    try:
        raise ValueError(NASTY)
    except ValueError as error:
        failed = record("it failed")
        failed.exc_info = (type(error), error, error.__traceback__)
    first, *rest = HumanFormatter().format(failed).split("\n")
    assert first.endswith("serve.test: it failed")
    assert rest
    assert all(line.startswith("    ") and line.isprintable() for line in rest)
    assert NASTY in json.loads(JsonFormatter().format(failed))["exception"]


@pytest.mark.parametrize("formatter", [HumanFormatter(), JsonFormatter()])
def test_of_a_key_only_the_id_gets_out(formatter: logging.Formatter, registry: Registry) -> None:
    key, secret = registry.keys.create("acme")
    line = formatter.format(record("no model %s", f"x{secret}y", model=secret))
    assert secret not in line
    assert secret[16:] not in line
    assert line.count(f"lk-{key.id}-...") == 2


def test_what_a_request_logs_names_it() -> None:
    def named() -> Any:
        return json.loads(JsonFormatter().format(record("hello"))).get("request_id")

    found: list[str | None] = []
    with logs.about(request_id="r1"):
        assert named() == "r1"
        with logs.about(trace_id="t1"):
            assert named() == "r1"
        thread = threading.Thread(target=lambda: found.append(named()))
        thread.start()
        thread.join()
    assert named() is None
    assert found == [None]  # a plain thread is nobody's


class Stuck(io.StringIO):
    """A standard error that nobody reads until `read` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.read = threading.Event()

    def write(self, text: str) -> int:
        self.read.wait(30)
        return super().write(text)


def test_a_standard_error_that_nobody_reads_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stderr", stuck := Stuck())
    monkeypatch.setattr(logs, "MAX_WAITING_CHARS", 10_000)
    logger = logging.getLogger("serve.test")
    with logs.to_standard_error("json", verbose=False):
        for number in range(1000):  # would never end if it waited
            logger.info("%d", number)
        stuck.read.set()
    messages = [json.loads(line)["message"] for line in stuck.getvalue().splitlines()]
    written = [message for message in messages if message.isdecimal()]
    assert written[:3] == ["0", "1", "2"]
    assert 10 < len(written) < 1000
    told = [re.fullmatch(r"(\d+) log lines were dropped.*", message) for message in messages]
    assert sum(int(match[1]) for match in told if match) == 1000 - len(written)


def test_a_standard_error_that_is_gone_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = io.StringIO()
    gone.close()
    monkeypatch.setattr(sys, "stderr", gone)
    with logs.to_standard_error("human", verbose=False):
        logging.getLogger("serve.test").error("nobody hears this")


@pytest.fixture
def _uvicorn_is_as_it_was_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests have run it with a log of its own."""
    for name in "uvicorn", "uvicorn.error":
        logger = logging.getLogger(name)
        for attribute, value in (("level", 0), ("propagate", True), ("handlers", [])):
            monkeypatch.setattr(logger, attribute, value)
        logger.manager._clear_cache()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("_uvicorn_is_as_it_was_imported")
@pytest.mark.parametrize("format", ["human", "json"])
def test_everybody_logs_the_same_way_and_is_as_before_afterwards(
    format: LogFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stderr := io.StringIO())
    root = logging.getLogger()
    handlers = list(root.handlers)
    with logs.to_standard_error(format, verbose=False):
        for name in (
            "serve.adapters",
            "deploy.replicas",
            "uvicorn.error",
            "vllm.engine",
            "alembic",
        ):
            logging.getLogger(name).info("info of %s", name)
            logging.getLogger(name).error("error of %s", name)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("old ways", UserWarning, stacklevel=1)
    lines = stderr.getvalue().splitlines()
    if format == "json":
        messages = [json.loads(line)["message"] for line in lines]
    else:
        messages = [re.split(r": ", line, maxsplit=1)[1] for line in lines]
        assert all(re.match(TIME, line) for line in lines)
    assert [message for message in messages if message.startswith("info")] == [
        "info of serve.adapters",
        "info of deploy.replicas",
    ]
    assert sum(message.startswith("error of") for message in messages) == 5
    assert "old ways" in messages[-1]
    assert root.handlers == handlers
    assert logging.getLogger("serve").level == logging.NOTSET


@pytest.mark.usefixtures("_uvicorn_is_as_it_was_imported")
def test_a_verbose_server_lets_the_libraries_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stderr := io.StringIO())
    with logs.to_standard_error("human", verbose=True):
        for name in ("uvicorn.error", "vllm.engine"):
            logging.getLogger(name).info("info of %s", name)
    assert stderr.getvalue().count("info of") == 2


def test_the_engines_process_logs_as_the_server_does() -> None:
    program = """
import logging, os, warnings
from serve import logs
logs.for_the_engine(os.environ)
logging.getLogger("vllm.v1").warning("one\\ntwo")
logging.getLogger("vllm.v1").info("not at this level")
warnings.warn("old ways")
"""
    env = {**os.environ, logs.ENGINE_FORMAT: "json", "VLLM_LOGGING_LEVEL": "WARNING"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    )
    entries = [json.loads(line) for line in done.stderr.splitlines()]
    assert [entry["logger"] for entry in entries] == ["vllm.v1", "py.warnings"]
    assert entries[0]["message"] == "one\ntwo"


def test_a_json_log_has_nothing_else_in_it(home: Any) -> None:
    command = [sys.executable, "-m", "lorikeet", "serve", "--engine", "echo", "--port", "0"]
    with subprocess.Popen(
        [*command, "--log-format", "json"], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        first = json.loads(process.stderr.readline())
        process.terminate()
        rest = process.stderr.read()
    assert process.returncode == 0
    assert first["message"] == "serving"
    assert first["url"].startswith("http://127.0.0.1:")
    assert [json.loads(line)["level"] for line in rest.splitlines() if line] == []


def test_a_failure_to_start_is_a_json_line_too(home: Any) -> None:
    command = [sys.executable, "-m", "lorikeet", "serve", "--engine", "echo", "--host", "0.0.0.0"]
    failed = subprocess.run([*command, "--log-format", "json"], capture_output=True, text=True)
    assert failed.returncode == 2
    (line,) = failed.stderr.splitlines()
    entry = json.loads(line)
    assert entry["level"] == "CRITICAL"
    assert "lorikeet keys create" in entry["remedy"]


def test_the_workers_lines_are_records_where_programs_read() -> None:
    shown: list[str] = []
    _pass_on(io.StringIO("one\ntwo 100%s\n"), shown.append)
    assert shown == ["one", "two 100%s"]


def test_prompts_need_the_line_that_they_are_in() -> None:
    with pytest.raises(ValueError, match="access log"):
        ServeSettings(log_prompts=True, access_log=False)
