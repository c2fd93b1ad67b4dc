"""An OpenAI-shaped server whose delays and token counts are known."""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

FIRST_SECONDS = 0.2
GAP_SECONDS = 0.05
PIECES = 6
TOKENS_A_PIECE = 2


@dataclass
class FakeServer:
    """Streams `PIECES` pieces of `TOKENS_A_PIECE` tokens: the first late, the others in step."""

    url: str = ""
    asked: list[str] = field(default_factory=list)
    keys: dict[str, str | None] = field(default_factory=dict)
    """The last Authorization header for each model."""
    authorizations: set[str | None] = field(default_factory=set)
    """Every Authorization header."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """What the chat requests said."""
    listed: list[tuple[str, str | None]] = field(
        default_factory=lambda: [("base", None), ("red", "base"), ("blue", "base")]
    )
    """Models and their parents."""
    metrics: str | None = None
    """What /metrics says; without it there is no such route."""
    unloaded: list[str] = field(default_factory=list)
    unload_frees: bool = True
    """Whether an unload gives the adapter's slot back."""

    def application(self) -> Starlette:
        """Its routes."""
        return Starlette(
            routes=[
                Route("/v1/models", self.models),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/metrics", self.exposition),
                Route("/admin/adapters", self.adapters),
                Route("/admin/adapters/{which}/unload", self.unload, methods=["POST"]),
            ]
        )

    async def exposition(self, request: Request) -> Response:
        """Prometheus' text."""
        return Response(self.metrics or "", status_code=200 if self.metrics else 404)

    async def adapters(self, request: Request) -> Response:
        """One that is loaded and one that is not."""
        states = {"red@1": "loaded", "blue@1": "cold"}
        return JSONResponse({"data": [{"id": id, "state": s} for id, s in states.items()]})

    async def unload(self, request: Request) -> Response:
        """Free its slot, if the server does that."""
        self.unloaded.append(request.path_params["which"])
        if self.unload_frees:
            self.metrics = (self.metrics or "").replace('"used"} 2.0', '"used"} 0.0')
        return JSONResponse({})

    async def models(self, request: Request) -> Response:
        """What is listed, with parents."""
        models = [{"id": name, "parent": parent} for name, parent in self.listed]
        return JSONResponse({"data": models})

    async def chat(self, request: Request) -> Response:
        """A stream; `broken` stops without an end, `hung` says nothing, `unknown` is refused."""
        body = await request.json()
        model = body["model"]
        self.asked.append(model)
        self.bodies.append(body)
        self.authorizations.add(request.headers.get("authorization"))
        self.keys[model] = request.headers.get("authorization")
        if model == "unknown":
            return JSONResponse({"error": {"message": "no such model"}}, status_code=404)
        return StreamingResponse(self.events(model), media_type="text/event-stream")

    async def events(self, model: str) -> AsyncIterator[str]:
        """The role, the text, the usage, the end."""
        yield event({"role": "assistant", "content": ""})
        if model == "hung":
            await asyncio.sleep(3600)
        await asyncio.sleep(FIRST_SECONDS)
        for piece in range(PIECES):
            if piece:
                await asyncio.sleep(GAP_SECONDS)
            yield event({"content": f"piece {piece} "})
            if model == "broken":
                return
        usage = {"prompt_tokens": 7, "completion_tokens": PIECES * TOKENS_A_PIECE}
        yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"


def event(delta: dict[str, str]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps({'choices': [{'delta': delta}]})}\n\n"


@pytest.fixture
def fake_server() -> Iterator[FakeServer]:
    """The server, on a free port of this machine, in a thread."""
    fake = FakeServer()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fake.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(fake.application(), log_level="error", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield fake
        server.should_exit = True
        thread.join()
