"""Which requests come when: read from a file, or drawn.

A trace file has a line of JSON for each request: `at` (seconds), `adapter` (null: the base),
`prompt_tokens`, `output_tokens`, and `tenant` if there are several. What a server logs with
`--log-format json` is one too: its access lines of requests that got tokens, each at its arrival.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from loadtests.arrivals import arrivals
from loadtests.lengths import Lengths
from loadtests.shapes import Stage
from loadtests.traffic import Zipf
from registry import UsageError


@dataclass(frozen=True, slots=True)
class Request:
    """`at` is in seconds from the begin; `prompt` and `output` are in tokens."""

    at: float
    adapter: str | None
    prompt: int
    output: int
    tenant: str = "default"


class _Line(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    at: float = Field(ge=0, allow_inf_nan=False)
    adapter: str | None
    prompt_tokens: int = Field(ge=0)
    output_tokens: int = Field(ge=1)
    tenant: str = "default"

    def request(self) -> Request:
        """As it says."""
        return Request(self.at, self.adapter, self.prompt_tokens, self.output_tokens, self.tenant)


class _AccessLine(BaseModel):
    """Of a server's log, written when the request had ended; other lines lack the endpoint."""

    model_config = ConfigDict(extra="ignore", strict=True)

    time: AwareDatetime
    endpoint: str | None = None
    model: str | None = None
    tenant: str | None = None
    prompt_tokens: int = Field(default=0, ge=0)
    output_tokens: int = Field(default=0, ge=0)
    seconds: float = Field(default=0, ge=0, allow_inf_nan=False)

    def request(self) -> Request | None:
        """At its arrival, in seconds since 1970; None where nothing was generated."""
        if self.endpoint not in {"chat", "completions"} or not self.output_tokens:
            return None
        return Request(
            self.time.timestamp() - self.seconds,
            self.model if "@" in (self.model or "") else None,
            self.prompt_tokens,
            self.output_tokens,
            self.tenant or "default",
        )


def read_trace(path: Path) -> list[Request]:
    """The requests of a file, in the order of their times; those of a log begin at 0.

    Raises: UsageError with the first line that is not one.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}", remedy="check --trace") from error
    is_log = bool(lines) and '"logger"' in lines[0]
    kind: type[_Line | _AccessLine] = _AccessLine if is_log else _Line
    requests = []
    for number, text in enumerate(lines, start=1):
        try:
            request = kind.model_validate_json(text).request()
        except ValidationError as error:
            reason = error.errors()[0]
            where = ".".join(map(str, reason["loc"])) or "the line"
            raise UsageError(
                f"{path}:{number}: {where}: {reason['msg']}",
                remedy='a line is like {"at": 0.5, "adapter": "support", '
                '"prompt_tokens": 48, "output_tokens": 32}, or of '
                "`lorikeet serve --log-format json`",
            ) from error
        if request is not None:
            requests.append(request)
    if not requests:
        raise UsageError(f"{path} has no request", remedy="check --trace")
    begin = min(request.at for request in requests) if is_log else 0.0
    moved = [replace(request, at=request.at - begin) for request in requests]
    return sorted(moved, key=lambda request: request.at)


def write_trace(path: Path, requests: Sequence[Request]) -> None:
    """The file that `read_trace` reads."""
    lines = [
        {
            "at": request.at,
            "adapter": request.adapter,
            "prompt_tokens": request.prompt,
            "output_tokens": request.output,
            "tenant": request.tenant,
        }
        for request in requests
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def drawn(
    adapters: Sequence[str],
    *,
    rate: float,
    seconds: float,
    zipf: float,
    lengths: Lengths,
    tenant: str | None = None,
    seed: int = 0,
) -> list[Request]:
    """A Poisson process of `rate` requests a second; adapters as Zipf says, lengths of the mix.

    Without a `tenant` each adapter is of one of its own.
    """
    source, names = random.Random(seed), Zipf(adapters, zipf)
    requests = []
    for arrival in arrivals([Stage("steady", seconds, rate)], str(seed)):
        length = lengths.draw(source)
        name = names.draw(source)
        whose = tenant or name
        requests.append(Request(arrival.seconds, name, length.prompt, length.output, whose))
    return requests
