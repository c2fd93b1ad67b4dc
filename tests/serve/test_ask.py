"""`lorikeet ask` where the answer does not come to its end."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from registry import LorikeetError
from serve.ask import Conversation
from serve.errors import Unavailable

PIECE = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "red"}
EVENTS = (
    PIECE | {"choices": [{"index": 0, "delta": {"content": "half an"}}]},
    Unavailable("The server is draining.").body(),
)


class Handler(BaseHTTPRequestHandler):
    """Streams EVENTS to whoever asks for a chat."""

    def do_POST(self) -> None:
        """One answer."""
        found = self.path == "/v1/chat/completions"
        self.send_response(200 if found else 404)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for event in EVENTS:
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
def test_a_stream_that_ends_with_an_error_is_told_as_one(url: str, path: str) -> None:
    said: list[str] = []
    chat = Conversation(url + path, "red", "none", system=None, max_tokens=9, temperature=0)
    with pytest.raises(LorikeetError, match=r"^The server is draining\."):
        chat.say("hello", lambda text, nl=True: said.append(text))
    assert said == ["half an", ""]
