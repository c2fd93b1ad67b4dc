"""What is asked of a server, in which portions, and what its refusals become."""

import json
from typing import Any

import httpx
import pytest

from train.data.masking import IGNORED, Encoded
from train.errors import ServerFailed
from train.handoff import score_server
from train.handoff.score_server import ScoreServer

ROWS = [Encoded((1, 2, 3, 4), (IGNORED, IGNORED, 3, 4)), Encoded((5, 6), (IGNORED, 6))]


@pytest.fixture
def transport(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let a function answer instead of a server; the requests are kept."""
    real, requests = httpx.Client, []

    def install(answer: Any) -> list[httpx.Request]:
        def handle(request: httpx.Request) -> httpx.Response:
            requests.append(request)
            return answer(request)  # type: ignore[no-any-return]

        def client(**options: Any) -> httpx.Client:
            return real(transport=httpx.MockTransport(handle), **options)

        monkeypatch.setattr(httpx, "Client", client)
        monkeypatch.setattr(score_server.time, "sleep", lambda _: None)
        return requests

    return install


def scored(request: httpx.Request) -> httpx.Response:
    sequences = json.loads(request.content)["sequences"]
    data = [
        {"logprobs": [-float(t) for t in ids[1:]], "top": [t + 100 for t in ids[1:]]}
        for ids in sequences
    ]
    engine = {"dtype": "float32", "quantization": "none"}
    body = {"data": data, "digest": "sha256:1", "base": "sha256:2", "engine": engine}
    return httpx.Response(200, json=body)


def test_only_what_is_trained_is_kept(transport: Any) -> None:
    requests = transport(scored)
    found = ScoreServer("http://server/v1/", "lk-secret").scores("opl@1", ROWS)
    assert [score.logprobs for score in found.scores] == [(-3.0, -4.0), (-6.0,)]
    assert [score.top for score in found.scores] == [(103, 104), (106,)]
    assert (found.digest, found.base_digest) == ("sha256:1", "sha256:2")
    (request,) = requests
    assert str(request.url) == "http://server/admin/score"
    assert request.headers["authorization"] == "Bearer lk-secret"
    assert json.loads(request.content) == {"model": "opl@1", "sequences": [[1, 2, 3, 4], [5, 6]]}


def test_rows_come_in_portions_and_stay_in_order(transport: Any) -> None:
    requests = transport(scored)
    rows = [Encoded((1, at), (IGNORED, at)) for at in range(40)]
    rows += [Encoded((1,) * 2000, (IGNORED,) * 1999 + (1,))] * 3
    done: list[int] = []
    found = ScoreServer("http://server").scores(None, rows, done.append)
    sizes = [len(json.loads(request.content)["sequences"]) for request in requests]
    assert sizes == done == [16, 16, 10, 1]
    assert [score.logprobs[0] for score in found.scores] == [*(-float(at) for at in range(40))] + [
        -1.0
    ] * 3
    assert "authorization" not in requests[0].headers


def test_a_busy_server_is_asked_again(transport: Any) -> None:
    busy = iter([503, 429])

    def answer(request: httpx.Request) -> httpx.Response:
        status = next(busy, None)
        if status is None:
            return scored(request)
        return httpx.Response(status, headers={"retry-after": "2"}, json={"error": {"message": ""}})

    requests = transport(answer)
    assert len(ScoreServer("http://server").scores(None, ROWS).scores) == 2
    assert len(requests) == 3


@pytest.mark.parametrize(
    ("answer", "message", "remedy"),
    [
        (httpx.Response(403, json={"error": {"message": "No."}}), "refuses: No.", "admin key"),
        (httpx.Response(503, json={"error": {"message": "Busy."}}), "refuses: Busy.", "log"),
        (httpx.Response(404, text="?"), "refuses: HTTP 404", "log"),
        (httpx.Response(200, json={"data": []}), "answers otherwise", "lorikeet serve"),
        (httpx.Response(200, text="<html>"), "answers otherwise", "lorikeet serve"),
    ],
)
def test_what_is_no_answer_is_an_error(
    transport: Any, answer: httpx.Response, message: str, remedy: str
) -> None:
    transport(lambda _: answer)
    with pytest.raises(ServerFailed, match=message) as raised:
        ScoreServer("http://server").scores(None, ROWS)
    assert remedy in (raised.value.remedy or "")


def test_nobody_there(transport: Any) -> None:
    def gone(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    transport(gone)
    with pytest.raises(ServerFailed, match="http://server does not answer: refused"):
        ScoreServer("http://server").scores(None, ROWS)
