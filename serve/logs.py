"""One line a log record on standard error, for people or for programs, whoever logs.

A record is one line for sure: what a client has sent can neither begin a line of its own nor reach
the terminal, and no API key gets out. Who does not read the lines does not hold up the server.
"""

import json
import logging
import queue
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

LogFormat = Literal["human", "json"]
WORKER = "lorikeet.worker"
"""The logger of the lines that the worker beside the server prints, for programs."""
ENGINE_FORMAT = "LORIKEET_ENGINE_LOG"
"""The variable that tells the engine's processes the LogFormat."""
MAX_WAITING_CHARS = 8 * 1024**2
"""Of lines that nobody has read yet; more are dropped, and how many is told."""
CLOSE_SECONDS = 2.0
"""For the last lines."""

_SECRET = re.compile(r"lk-([0-9a-f]{12})-[A-Za-z0-9_-]{43}")
_BARE = re.compile(r"[\w@.:/+-]+", re.ASCII)
_INDENT = "    "

_about: ContextVar[Mapping[str, Any]] = ContextVar("lorikeet_about")


@contextmanager
def about(**fields: Any) -> Iterator[None]:
    """What is logged inside, in tasks and threads begun there too, carries `fields`."""
    token = _about.set({**_about.get({}), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def fields(**values: Any) -> dict[str, Any]:
    """The `extra` of a log call for what programs are to find by name."""
    return {"fields": values}


class HumanFormatter(logging.Formatter):
    """`TIME LEVEL LOGGER: message name=value …`, in the machine's time; tracebacks below."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; one more for each of a traceback, none of which begins at the margin."""
        time = datetime.fromtimestamp(record.created).isoformat(" ", "milliseconds")
        message = printable(record.getMessage())
        words = [f"{time} {record.levelname:<7} {record.name}: {message}"]
        words += [
            f"{name}={_value(value)}"
            for name, value in _fields(record).items()
            if value is not None
        ]
        lines = [" ".join(words)]
        if trace := _traceback(self, record):
            lines += [_INDENT + printable(line) for line in trace.splitlines()]
        return withheld("\n".join(lines))


class JsonFormatter(logging.Formatter):
    """A JSON object: `time` (UTC), `level`, `logger`, `message`, what is told by name, `exception`.

    ASCII only.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if trace := _traceback(self, record):
            entry["exception"] = trace
        return withheld(json.dumps(entry, default=str))


class Lines(logging.Handler):
    """Writes to standard error in a thread of its own, at most MAX_WAITING_CHARS behind."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._waiting = self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="log-lines", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a line over, or drop it."""
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
            return
        if self._waiting + len(line) > MAX_WAITING_CHARS:
            self._dropped += 1
            return
        self._waiting += len(line)
        self._lines.put(line)

    def close(self) -> None:
        """Write what waits, for CLOSE_SECONDS at most."""
        self._lines.put(None)
        self._thread.join(CLOSE_SECONDS)
        super().close()

    def _write(self) -> None:
        assert self.lock is not None
        while (line := self._lines.get()) is not None:
            _print(line)
            with self.lock:
                self._waiting -= len(line)
                dropped, self._dropped = self._dropped, 0
            if dropped:
                _print(self.format(_dropped_lines(dropped)))


def _dropped_lines(count: int) -> logging.LogRecord:
    message = "%d log lines were dropped: nobody read them in time"
    return logging.LogRecord(__name__, logging.WARNING, "", 0, message, (count,), None)


def _print(line: str) -> None:
    """Standard error is looked up each time: a progress display puts itself in its place."""
    with suppress(OSError, ValueError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


@contextmanager
def to_standard_error(format: LogFormat, *, verbose: bool) -> Iterator[None]:
    """All that is logged in this process inside, vLLM's and uvicorn's too, comes out as lines.

    Beside warnings and errors that is what this server has to say; with `verbose` the libraries
    tell what they do.
    """
    handler = Lines()
    handler.setFormatter(_formatter(format))
    levels = _levels(verbose)
    before = {name: logging.getLogger(name).level for name in levels}
    root = logging.getLogger()
    root.addHandler(handler)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for name, was in before.items():
            logging.getLogger(name).setLevel(was)
        root.removeHandler(handler)
        handler.close()


def for_the_engine(environment: Mapping[str, str]) -> None:
    """The same in the process that the engine is forked off; there nobody waits for a line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(environment.get(ENGINE_FORMAT, "human")))
    logging.getLogger().handlers = [handler]
    logging.captureWarnings(True)
    set_vllm_level(environment)


def set_vllm_level(environment: Mapping[str, str]) -> None:
    """What vLLM would do with VLLM_LOGGING_LEVEL, if its lines were not to come out as ours do."""
    level = logging.getLevelNamesMapping().get(environment.get("VLLM_LOGGING_LEVEL", "ERROR"))
    if level is not None:
        logging.getLogger("vllm").setLevel(level)


def printable(text: str) -> str:
    """`text` with everything escaped that could end a line or steer a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def withheld(text: str) -> str:
    """`text` with the id alone of each API key in it."""
    return _SECRET.sub(r"lk-\1-...", text)


def _levels(verbose: bool) -> dict[str, int]:
    return {
        "serve": logging.DEBUG if verbose else logging.INFO,
        "registry": logging.INFO,
        "deploy": logging.INFO,
        WORKER: logging.INFO,
        "uvicorn": logging.INFO if verbose else logging.WARNING,
        "vllm": logging.INFO if verbose else logging.ERROR,
    }


def _formatter(format: str) -> logging.Formatter:
    return JsonFormatter() if format == "json" else HumanFormatter()


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    told: Mapping[str, Any] = getattr(record, "fields", {})
    return {**_about.get({}), **told}


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if _BARE.fullmatch(text) else json.dumps(text)


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str | None:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info else []
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts) or None
