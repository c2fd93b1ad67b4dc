"""Log-probabilities of the answers' tokens, teacher-forced: from a running Lorikeet server."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from train.batches import OnRows
from train.data.masking import IGNORED, Encoded
from train.errors import ServerFailed
from train.handoff.token_scores import TokenScores

if TYPE_CHECKING:
    import httpx

LONGEST = 2048
"""Tokens of a sequence that a server scores at most."""
_MOST_ROWS, _MOST_TOKENS = 16, 4096
"""Of one request."""
_TIMEOUT_SECONDS = 600.0
_ATTEMPTS, _LONGEST_WAIT_SECONDS = 6, 30.0


@dataclass(frozen=True)
class ServedScores:
    """What a server said of some rows, and what it says it served.

    `digest` is that of the adapter's content (None: the base alone), `base_digest` the base's;
    `engine` has the engine's version, the `dtype` and the `quantization` of the base.
    """

    scores: list[TokenScores]
    digest: str | None
    base_digest: str
    engine: dict[str, str]


class ScoreServer:
    """One server; `api_key` is an admin's, or None for a server without keys."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}

    def scores(
        self, model: str | None, rows: Sequence[Encoded], on_rows: OnRows | None = None
    ) -> ServedScores:
        """The scores of the rows' trained tokens by `model`, None for the base alone.

        Every row has LONGEST tokens at most. Raises ServerFailed.
        """
        import httpx

        scores: list[TokenScores] = []
        answer: dict[str, Any] = {}
        try:
            with httpx.Client(
                base_url=self._url, headers=self._headers, timeout=_TIMEOUT_SECONDS
            ) as client:
                for some in _portions(rows):
                    answer = self._ask(client, model, some)
                    data = answer["data"]
                    scores += [_trained(row, each) for row, each in zip(some, data, strict=True)]
                    if on_rows:
                        on_rows(len(some))
            return ServedScores(scores, answer["digest"], answer["base"], answer["engine"])
        except httpx.HTTPError as error:
            raise ServerFailed(
                f"{self._url} does not answer: {error}",
                remedy="start it with `lorikeet serve`, or correct --url",
            ) from error
        except (KeyError, TypeError, ValueError) as error:
            raise ServerFailed(
                f"{self._url} answers otherwise than Lorikeet does",
                remedy="name the address of a `lorikeet serve` of this version",
            ) from error

    def _ask(
        self, client: "httpx.Client", model: str | None, rows: Sequence[Encoded]
    ) -> dict[str, Any]:
        """One answer; a server that is busy is asked again when it says so."""
        body = {"model": model, "sequences": [list(row.input_ids) for row in rows]}
        for attempt in range(1, _ATTEMPTS + 1):
            response = client.post("/admin/score", json=body)
            if response.status_code not in (429, 503) or attempt == _ATTEMPTS:
                break
            time.sleep(min(_LONGEST_WAIT_SECONDS, float(response.headers.get("retry-after", 1))))
        if response.is_success:
            answer: dict[str, Any] = response.json()
            return answer
        raise ServerFailed(
            f"{self._url} refuses: {_reason(response)}",
            remedy="--api-key takes an admin key (`lorikeet keys create --tenant NAME --admin`)"
            if response.status_code in (401, 403)
            else "the server's log has more",
        )


def _portions(rows: Sequence[Encoded]) -> Iterator[list[Encoded]]:
    """The rows in order, as many together as one request may have."""
    portion: list[Encoded] = []
    tokens = 0
    for row in rows:
        length = len(row.input_ids)
        if portion and (len(portion) == _MOST_ROWS or tokens + length > _MOST_TOKENS):
            yield portion
            portion, tokens = [], 0
        portion.append(row)
        tokens += length
    if portion:
        yield portion


def _trained(row: Encoded, answer: dict[str, Any]) -> TokenScores:
    """Of all tokens but the first, those that are trained."""
    places = zip(row.labels[1:], answer["logprobs"], answer["top"], strict=True)
    chosen = [(float(value), int(top)) for label, value, top in places if label != IGNORED]
    return TokenScores(tuple(value for value, _ in chosen), tuple(top for _, top in chosen))


def _reason(response: "httpx.Response") -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status_code}"
