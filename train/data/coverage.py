"""Loss coverage: which rows the loss sees otherwise than their author may think."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from train.data.masking import IGNORED, EncodedChat
from train.data.rejected import Rejected

_MOST_LINES = 20


@dataclass(frozen=True, slots=True)
class Coverage:
    """The lines of the rows with each peculiarity; no row is ever cut, a longer one is left out."""

    too_long: tuple[int, ...] = ()
    masked: tuple[int, ...] = ()
    empty: tuple[int, ...] = ()
    stop_added: tuple[int, ...] = ()
    stop_inside: tuple[int, ...] = ()
    doubled_bos: tuple[int, ...] = ()
    drift: tuple[int, ...] = ()
    rewritten: tuple[int, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For each: how many rows, and the first lines."""
        found = {name: getattr(self, name) for name in MEANINGS}
        return {
            name: {"rows": len(lines), "lines": list(lines[:_MOST_LINES])}
            for name, lines in found.items()
        }


MEANINGS = {
    "too_long": "longer than max_length; none is cut, such a row is left out or an error",
    "masked": "nothing in the loss: each answer has weight 0",
    "empty": "an answer without text",
    "stop_added": "the template ends the answer with no stop token; one is added",
    "stop_inside": "a stop token within the answer: the server never gets past it",
    "doubled_bos": "begins with the BOS token twice: the row has one of its own",
    "drift": "token ids that are not those the server makes of the same chat",
    "rewritten": "the template shows the answer otherwise in later turns (drops its reasoning)",
}
"""What each field of Coverage means."""


def coverage_of(
    rows: Sequence[EncodedChat],
    rejected: Sequence[Rejected],
    *,
    max_length: int,
    bos_id: int | None,
    stop_ids: Collection[int],
) -> Coverage:
    """The coverage of encoded `rows`, and of those that were `rejected`."""

    def refused(kind: str) -> list[int]:
        return [problem.line for problem in rejected if problem.kind == kind]

    def lines(found: Sequence[bool]) -> list[int]:
        return [row.chat.line for row, there in zip(rows, found, strict=True) if there]

    def ordered(*parts: list[int]) -> tuple[int, ...]:
        return tuple(sorted({line for part in parts for line in part}))

    return Coverage(
        too_long=ordered(refused("too_long"), lines([row.longest > max_length for row in rows])),
        masked=ordered(refused("masked"), lines([not row.trained_tokens for row in rows])),
        empty=ordered(refused("empty")),
        stop_added=ordered(lines([row.stop_added for row in rows])),
        stop_inside=ordered(lines([_stops_inside(row, stop_ids) for row in rows])),
        doubled_bos=ordered(lines([_doubles_bos(row, bos_id) for row in rows])),
        drift=ordered(refused("drift"), lines([row.drift is not None for row in rows])),
        rewritten=ordered(lines([row.rewritten for row in rows])),
    )


def _doubles_bos(row: EncodedChat, bos_id: int | None) -> bool:
    ids = row.sequences[-1].input_ids
    return bos_id is not None and tuple(ids[:2]) == (bos_id, bos_id)


def _stops_inside(row: EncodedChat, stop_ids: Collection[int]) -> bool:
    """Whether a trained stop token is followed by another trained token."""
    return any(
        label in stop_ids and after != IGNORED
        for sequence in row.sequences
        for label, after in zip(sequence.labels, sequence.labels[1:], strict=False)
    )
