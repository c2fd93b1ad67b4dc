"""Which requests come when: read from a file, or drawn.

A trace file has a line of JSON for each request: `at` (seconds), `adapter` (null: the base),
`prompt_tokens`, `output_tokens`, and `tenant` if there are several. An access log in JSON has all
of that.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

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


def read_trace(path: Path) -> list[Request]:
    """The requests of a file, in the order of their times.

    Raises: UsageError with the first line that is not one.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}", remedy="check --trace") from error
    requests = []
    for number, text in enumerate(lines, start=1):
        try:
            line = _Line.model_validate_json(text)
        except ValidationError as error:
            reason = error.errors()[0]
            where = ".".join(map(str, reason["loc"])) or "the line"
            raise UsageError(
                f"{path}:{number}: {where}: {reason['msg']}",
                remedy='a line is like {"at": 0.5, "adapter": "support", '
                '"prompt_tokens": 48, "output_tokens": 32}',
            ) from error
        requests.append(
            Request(line.at, line.adapter, line.prompt_tokens, line.output_tokens, line.tenant)
        )
    if not requests:
        raise UsageError(f"{path} has no request", remedy="check --trace")
    return sorted(requests, key=lambda request: request.at)


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
