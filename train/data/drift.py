"""Where the token ids trained are not those that the server makes of the same chat."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from train.data.rejected import Rejected
from train.data.tokens import shared_length

_AROUND = 3


@dataclass(frozen=True, slots=True)
class Drift:
    """The first difference in a row: at token `position` (from 0) of its turn `turn` (from 1).

    `where` says against what: the same chat as the server renders it once it is answered, or its
    prompt for the next turn. `trained` and `served` are the texts of the tokens around it.
    """

    line: int
    turn: int
    position: int
    where: str
    trained: tuple[str, ...]
    served: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"turn {self.turn}, token {self.position}: {_shown(self.trained)} is trained, and the "
            f"server makes {_shown(self.served)} in {self.where}"
        )

    def rejected(self) -> Rejected:
        """The row's problem where drift is not allowed."""
        wanted = "the server's token ids (or template_drift=allow)"
        return Rejected(self.line, str(self), wanted, "drift")

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "line": self.line,
            "turn": self.turn,
            "position": self.position,
            "where": self.where,
            "trained": list(self.trained),
            "served": list(self.served),
        }


def first_difference(
    tokenizer: Any,
    trained: Sequence[int],
    served: Sequence[int],
    *,
    line: int,
    turn: int,
    where: str,
) -> Drift | None:
    """Where the ids `trained` are not what `served` begins with; None where they are."""
    position = shared_length(trained, served)
    if position == len(trained):
        return None
    part = slice(max(0, position - _AROUND), position + _AROUND)
    return Drift(
        line,
        turn,
        position,
        where,
        tuple(tokenizer.decode([token]) for token in trained[part]),
        tuple(tokenizer.decode([token]) for token in served[part]),
    )


def _shown(tokens: Sequence[str]) -> str:
    return "·".join(repr(token)[1:-1] for token in tokens) if tokens else "nothing"
