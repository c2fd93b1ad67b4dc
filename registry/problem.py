"""One thing that is wrong with an adapter, in words that a person can act on."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Problem:
    """What preflight found.

    `code` is stable and for programs (`weights-not-finite`); `message` says what is wrong and
    where; `remedy` says what to do. An adapter with an "error" is refused, a "warning" is not.
    """

    code: str
    message: str
    remedy: str
    severity: Severity = "error"
