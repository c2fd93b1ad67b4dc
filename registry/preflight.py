"""Everything that can be wrong with an adapter, found from its files alone: no torch, no engine.

The engine accepts adapters that then answer wrongly, or stop it for everybody; whatever is served
was checked here first. The header checks take milliseconds, the values are read in a stream.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from registry.adapter_config import AdapterConfig, read_config
from registry.adapter_folder import WEIGHTS_FILE, check_folder, has_file
from registry.adapter_weights import Weights, check_ranks, read_weights, some
from registry.base_fit import check_modules, check_origin, check_tokenizer
from registry.bases import Base
from registry.files import without_path
from registry.problem import Problem
from registry.tensor_bytes import LARGE, scan
from registry.tensor_header import FLOAT_TYPES

MAX_MESSAGE = 1000

__all__ = ["Inspection", "Limits", "Problem", "check_adapter", "inspect_adapter"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What is accepted: the highest rank, and the most bytes the adapter's files take together.

    `strict_tokenizer` refuses an adapter whose tokenizer or chat template is not the base's, which
    is what is served; otherwise it is a warning.
    """

    max_rank: int = 64
    max_bytes: int = 4 << 30
    strict_tokenizer: bool = False


@dataclass(frozen=True, slots=True)
class Inspection:
    """What preflight read and what it found; `config` and `weights` are None where unreadable."""

    problems: list[Problem]
    config: AdapterConfig | None = None
    weights: Weights | None = None

    @property
    def accepted(self) -> bool:
        """Whether there is no error; warnings do not count."""
        return not any(problem.severity == "error" for problem in self.problems)


def check_adapter(folder: Path, base: Base | None, limits: Limits) -> list[Problem]:
    """Every problem of the adapter in `folder`, errors first; empty where it can be served.

    With no `base` all is checked that does not need one. Raises nothing for a bad adapter.
    """
    return inspect_adapter(folder, base, limits).problems


def inspect_adapter(folder: Path, base: Base | None, limits: Limits) -> Inspection:
    """As `check_adapter`, with what was read."""
    problems = check_folder(folder, limits.max_bytes)
    config: AdapterConfig | None = None
    weights: Weights | None = None
    unusable = {problem.code for problem in problems} & {"folder-missing", "size-limit"}
    if not unusable:
        try:
            if has_file(folder, "adapter_config.json"):
                config, found = read_config(folder, limits.max_rank)
                problems += found
            if has_file(folder, WEIGHTS_FILE):
                weights, found = read_weights(folder)
                problems += found
                if weights is not None:
                    problems += _check_weights(folder, weights, config, base)
            if base is not None:
                problems += check_origin(folder, config, base)
                problems += check_tokenizer(folder, base, limits.strict_tokenizer)
        except (OSError, EOFError) as error:
            problems.append(
                Problem(
                    "file-unreadable",
                    f"a file cannot be read: {without_path(error)}",
                    "make it readable, and let nothing write to it meanwhile",
                )
            )
    problems = [replace(problem, message=_plain(problem.message)) for problem in problems]
    problems.sort(key=lambda problem: problem.severity != "error")
    return Inspection(problems, config, weights)


def _plain(text: str) -> str:
    """Words from an untrusted file, made safe for a terminal and a log line."""
    text = text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 3] + "..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _check_weights(
    folder: Path, weights: Weights, config: AdapterConfig | None, base: Base | None
) -> Iterator[Problem]:
    if config is not None:
        yield from check_ranks(weights, config)
    if base is not None:
        yield from check_modules(weights, base)
    yield from _check_values(folder, weights)


def _check_values(folder: Path, weights: Weights) -> Iterator[Problem]:
    """One pass over the file: NaN, infinite and absurdly large values, and an adapter of zeros."""
    path = folder / WEIGHTS_FILE
    not_finite, large, zeros = [], [], set()
    tensors = [tensor for tensor in weights.tensors if tensor.dtype in FLOAT_TYPES]
    for tensor, values in zip(tensors, scan(path, tensors), strict=True):
        if values.not_finite:
            not_finite.append(f"{tensor.name} ({values.not_finite} of {tensor.elements})")
        if values.large:
            large.append(f"{tensor.name} ({values.large} of {tensor.elements})")
        if values.zero:
            zeros.add(tensor.name)
    if not_finite:
        yield Problem(
            "weights-not-finite",
            f"{WEIGHTS_FILE}: NaN or infinite values in {some(not_finite)}",
            "the training diverged: train again with a lower learning rate",
        )
    if large:
        yield Problem(
            "weights-too-large",
            f"{WEIGHTS_FILE}: values of {LARGE:.0f} and more in {some(large)}",
            "the training diverged: train again with a lower learning rate",
        )
    pairs = [{weights.a[m].name, weights.b[m].name} for m in weights.a.keys() & weights.b.keys()]
    if pairs and all(pair & zeros for pair in pairs):
        yield Problem(
            "weights-zero",
            f"{WEIGHTS_FILE}: every A or B is zero, so the adapter changes nothing",
            "check that the training ran: B starts at zero",
            "warning",
        )
