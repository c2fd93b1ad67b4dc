"""Each of vLLM's security advisories that touches a server: what a client gets here instead.

Refused requests never reach the engine, are answered in OpenAI's shape, and tell nothing of the
server's files or code. The numbers of the advisories are the names of the cases.
"""

import base64
import hmac
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from registry import BadReference, Reference
from serve.engine.echo import EchoEngine
from serve.requests import REFUSED

pytestmark = pytest.mark.anyio

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HELLO = {"messages": [{"role": "user", "content": "hello"}]}
INSIDE = "http://169.254.169.254/latest/meta-data/"


class CountingEngine(EchoEngine):
    """Remembers what reached it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Any] = []

    async def generate(self, request: Any) -> Any:
        self.asked.append(request)
        return await super().generate(request)


def part(kind: str, value: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": kind, kind: value}]}]}


def tool(parameters: Any, **function: Any) -> dict[str, Any]:
    named = {"name": "f", "parameters": parameters} | function
    return HELLO | {"tools": [{"type": "function", "function": named}]}


def answer_of(schema: Any) -> dict[str, Any]:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    return HELLO | {"response_format": form}


def tokens(*ids: int) -> dict[str, Any]:
    return {"prompt": list(ids)}


def assert_refused(response: httpx.Response, *statuses: int) -> None:
    """4xx in OpenAI's shape, with nothing of the server's inside in it."""
    assert response.status_code in (statuses or (400,)), response.text
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    for secret in ("Traceback", ".py", "/home", "/root", "/usr", "/tmp", "site-packages", "0x"):
        assert secret not in response.text
    if response.status_code < 500:
        assert response.headers["x-request-id"]


EMBEDDINGS = base64.b64encode(b"PK\x03\x04not a tensor").decode()
NESTED: dict[str, Any] = {"type": "object"}
for _ in range(60):
    NESTED = {"type": "object", "properties": {"a": NESTED}}
SPARSE = {"prompt_embeds": [EMBEDDINGS], "prompt": "x"}

REFUSED_BODIES: list[tuple[str, str, dict[str, Any]]] = [
    # Numbers without bounds, not finite, or not numbers.
    ("CVE-2026-34756", CHAT, HELLO | {"n": 10**9}),
    ("CVE-2026-34756", COMPLETIONS, {"prompt": "x", "n": 10**30}),
    ("CVE-2026-54235", CHAT, HELLO | {"temperature": "NaN"}),
    ("CVE-2026-54235", CHAT, HELLO | {"temperature": 10**400}),
    ("CVE-2026-54234", COMPLETIONS, tokens(1, -1)),
    ("CVE-2026-54234", CHAT, HELLO | {"stop_token_ids": [-1]}),
    ("CVE-2026-93592", COMPLETIONS, tokens(-(2**31))),
    ("CVE-2026-93592", COMPLETIONS, {"prompt": [[1, 2], [-3]]}),
    ("CVE-2026-93841", COMPLETIONS, tokens(2**31)),
    ("CVE-2026-93840", CHAT, HELLO | {"allowed_token_ids": [49152]}),
    ("GHSA-6cxc-2vcg-w5qc", CHAT, HELLO | {"allowed_token_ids": [1]}),
    ("CVE-2026-44223", CHAT, HELLO | {"repetition_penalty": 1e-45}),
    ("CVE-2026-44223", CHAT, HELLO | {"frequency_penalty": 1e308}),
    ("GHSA-4xqp-c3mv-qff7", CHAT, HELLO | {"min_tokens": 2**31 - 1}),
    ("CVE-2026-9540", CHAT, HELLO | {"max_tokens": 2**62}),
    ("CVE-2024-8768", COMPLETIONS, {"prompt": ""}),
    # Grammars: not regular expressions, not schemas, or ones that take for ever.
    ("CVE-2026-55574", CHAT, HELLO | {"structured_outputs": {"regex": "(a+)+b"}}),
    ("CVE-2026-55574", CHAT, answer_of({"type": "string", "pattern": "^((.{1,50}){1,50})+b$"})),
    ("CVE-2026-55574", CHAT, answer_of({"patternProperties": {"(.{1,99}){1,99}": {}}})),
    ("CVE-2025-71379", CHAT, answer_of({"type": "string", "pattern": ".?" * 200})),
    ("CVE-2025-48944", CHAT, tool({"properties": {"a": {"type": "something"}}})),
    ("CVE-2025-48944", CHAT, tool({"properties": {"a": {"type": "string", "pattern": "(("}}})),
    ("CVE-2025-48944", CHAT, tool("object")),
    ("CVE-2025-48944", CHAT, tool({"type": "object"}, name="")),
    ("CVE-2025-48943", CHAT, HELLO | {"guided_regex": "[.*"}),
    ("CVE-2025-48943", CHAT, answer_of({"type": "string", "pattern": "[.*"})),
    ("CVE-2025-48942", CHAT, HELLO | {"guided_json": {"type": "stsring"}}),
    ("CVE-2025-48942", CHAT, answer_of({"type": "stsring"})),
    ("CVE-2025-57809", CHAT, answer_of(NESTED)),
    ("CVE-2025-32381", CHAT, HELLO | {"guided_grammar": 'root ::= "a"'}),
    ("CVE-2025-29770", CHAT, HELLO | {"guided_decoding_backend": "outlines"}),
    # What belongs to the operator.
    ("CVE-2025-61620", CHAT, HELLO | {"chat_template": "{% for i in range(10**9) %}{% endfor %}"}),
    ("CVE-2025-61620", CHAT, HELLO | {"chat_template_kwargs": {"chat_template": "{{ 1 }}"}}),
    ("CVE-2025-62426", CHAT, HELLO | {"chat_template_kwargs": {"tokenize": True}}),
    ("CVE-2025-9141", CHAT, HELLO | {"tool_call_parser": "qwen3_coder"}),
    ("CVE-2025-48887", CHAT, HELLO | {"tool_call_parser": "pythonic"}),
    ("CVE-2025-46570", CHAT, HELLO | {"cache_salt": "another tenant's"}),
    ("GHSA-935w-9g4m-p28p", CHAT, HELLO | {"cache_salt": ""}),
    ("CVE-2025-25183", CHAT, HELLO | {"cache_salt": "a guess"}),
    ("CVE-2026-94622", CHAT, HELLO | {"kv_transfer_params": {"do_remote_decode": True}}),
    ("CVE-2026-94626", CHAT, HELLO | {"kv_transfer_params": {"tp_size": 10**9}}),
    ("CVE-2026-93436", CHAT, HELLO | {"kv_transfer_params": {"remote_block_ids": [1]}}),
    ("GHSA-h3rc-6mm3-gc2m", CHAT, HELLO | {"mm_processor_kwargs": {"code_revision": "evil"}}),
    # Embeddings instead of text.
    ("CVE-2025-62164", COMPLETIONS, SPARSE),
    ("CVE-2026-56340", COMPLETIONS, SPARSE),
    ("CVE-2026-55514", COMPLETIONS, {"prompt_embeds": EMBEDDINGS}),
    ("CVE-2025-62372", CHAT, part("image_embeds", EMBEDDINGS)),
    # Media and what they are fetched from.
    ("CVE-2025-6242", CHAT, part("image_url", {"url": INSIDE})),
    ("CVE-2026-24779", CHAT, part("image_url", {"url": "http://a.example\\@169.254.169.254/"})),
    ("CVE-2026-25960", CHAT, part("video_url", {"url": "http://[::ffff:169.254.169.254]/"})),
    ("CVE-2026-34753", CHAT, part("audio_url", {"url": INSIDE})),
    ("CVE-2026-73560", CHAT, part("image_url", {"url": "file:///etc/passwd"})),
    ("CVE-2026-22778", CHAT, part("image_url", {"url": "data:image/jp2;base64,AAAA"})),
    ("CVE-2026-22773", CHAT, part("image_url", {"url": "data:image/png;base64,iVBORw0KGgo="})),
    ("CVE-2026-34755", CHAT, part("video_url", {"url": "data:video/jpeg;base64," + "AAAA," * 999})),
    ("CVE-2026-34760", CHAT, part("input_audio", {"data": "AAAA", "format": "wav"})),
    ("CVE-2026-54233", CHAT, part("input_audio", {"data": "AAAA", "format": "flac"})),
    ("CVE-2026-44222", CHAT, part("image_url", {"url": "<|image_pad|>"})),
    ("CVE-2025-46560", CHAT, part("image_url", {"url": "<|audio_1|>" * 999})),
    ("CVE-2025-46722", CHAT, part("image_pil", "AAAA")),
    ("CVE-2026-69147", CHAT, HELLO | {"media_io_kwargs": {"video": {"backend": "pynvvideocodec"}}}),
    ("GHSA-p92p-rxj5-7p2x", CHAT, part("image_url", {"url": "", "uuid": "x"})),
    # What an error said of the server.
    ("CVE-2026-73555", CHAT, HELLO | {"n": "one"}),
    ("CVE-2026-73555", CHAT, {"messages": [{"role": "user", "content": {"a": [1]}}]}),
    ("CVE-2026-54236", CHAT, part("image", {"source": "AAAA"})),
]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param(path, body, id=f"{advisory}-{number}")
        for number, (advisory, path, body) in enumerate(REFUSED_BODIES)
    ],
)
async def test_the_request_is_refused_before_the_engine(
    run: Any, path: str, body: dict[str, Any]
) -> None:
    engine = CountingEngine()
    async with run(engine=engine) as running:
        response = await running.client.post(path, json={"model": "tiny"} | body)
        assert_refused(response)
        assert not engine.asked
        assert (await running.chat("tiny")).status_code == 200


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_numbers_that_are_none(run: Any, number: str) -> None:
    """CVE-2026-54235: NaN and Infinity as JSON's readers take them."""
    engine = CountingEngine()
    content = f'{{"model": "tiny", "messages": [], "temperature": {number}}}'
    async with run(engine=engine) as running:
        assert_refused(await running.client.post(CHAT, content=content.encode()))
    assert not engine.asked


@pytest.mark.parametrize("field", sorted(REFUSED))
async def test_a_field_of_the_operators_is_refused(run: Any, field: str) -> None:
    engine = CountingEngine()
    async with run(engine=engine) as running:
        response = await running.chat("tiny", **{field: "x"})
        assert_refused(response)
        assert response.json()["error"]["param"] == field
    assert not engine.asked


DERENDER = "/v1/chat/completions/derender"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        pytest.param("POST", "/invocations", id="vllm-58144-invocations"),
        pytest.param("POST", "/adapters", id="vllm-58144-adapters"),
        pytest.param("POST", "/v1/load_lora_adapter", id="vllm-46287-load"),
        pytest.param("POST", "/v1/messages", id="CVE-2026-54236-messages"),
        pytest.param("POST", DERENDER, id="CVE-2026-71486-derender"),
        pytest.param("POST", "/v1/embeddings", id="CVE-2026-93592-embeddings"),
        pytest.param("POST", "/pooling", id="CVE-2026-93592-pooling"),
        pytest.param("POST", "/tokenize", id="GHSA-h3rc-6mm3-gc2m-tokenize"),
        pytest.param("POST", "/v1/responses", id="GHSA-935w-9g4m-p28p-responses"),
        pytest.param("POST", "/v1/audio/transcriptions", id="CVE-2026-34760-audio"),
        pytest.param("POST", "/collective_rpc", id="CVE-2025-30165-rpc"),
        pytest.param("GET", "/docs", id="CVE-2026-73555-docs"),
    ],
)
async def test_what_vllm_also_serves_is_not_there(
    run: Any, registry: Any, method: str, path: str
) -> None:
    async with run() as running:
        assert_refused(await running.client.request(method, path, json={}), 404)
    registry.keys.create("t")
    async with run() as running:
        assert_refused(await running.client.request(method, path, json={}), 401)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"host": "localhost/health?"}, id="CVE-2026-48746-host"),
        pytest.param({"host": "test/health"}, id="CVE-2026-48746-host-path"),
        pytest.param({"x-forwarded-prefix": "/health"}, id="CVE-2026-48746-prefix"),
        pytest.param({"x-original-url": "/health"}, id="CVE-2026-48746-original"),
        pytest.param({"x-rewrite-url": "/ready"}, id="CVE-2026-48746-rewrite"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", CHAT, "//v1/models", "/health/../v1/models"])
async def test_no_header_opens_a_path(
    run: Any, registry: Any, path: str, headers: dict[str, str]
) -> None:
    """CVE-2026-48746: the key check trusted the Host header."""
    registry.keys.create("t")
    engine = CountingEngine()
    async with run(engine=engine) as running:
        assert_refused(await running.client.post(path, headers=headers, json=HELLO), 401)
    assert not engine.asked


async def test_keys_are_compared_in_constant_time(
    registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2025-59425: digests are compared, with `compare_digest`."""
    _, secret = registry.keys.create("t")
    compared = []

    def spy(one: Any, other: Any) -> bool:
        compared.append((one, other))
        return real(one, other)

    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", spy)
    assert registry.keys.find(secret) is not None
    assert registry.keys.find(secret[:-43] + "A" * 43) is None
    assert len(compared) == 2
    assert all(len(side) == 64 and side not in secret for pair in compared for side in pair)


@pytest.mark.parametrize(
    "model",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "opl/../opl",
        "..%2f..%2fetc",
        "opl@../1",
        "file:///etc/passwd",
        "text",
        "a\\b",
    ],
)
async def test_a_name_is_never_a_path(run: Any, publish: Any, model: str) -> None:
    """vllm PR#46287: the resolver joined the client's text to a folder."""
    publish("opl")
    engine = CountingEngine()
    async with run(engine=engine) as running:
        assert_refused(await running.chat(model), 404)
        assert_refused(await running.client.get(f"/v1/models/{quote(model, safe='')}"), 404)
    assert not engine.asked
    assert not engine.loaded


async def test_huge_headers_and_bodies_are_refused(run: Any) -> None:
    """CVE-2025-48956: headers without a bound."""
    engine = CountingEngine()
    async with run(engine=engine, max_body_bytes=4096) as running:
        headers = {"x-large": "x" * 2**20}
        assert_refused(await running.client.post(CHAT, headers=headers, json=HELLO), 413)
        many = {f"x-{i}": "x" * 100 for i in range(1000)}
        assert_refused(await running.client.post(CHAT, headers=many, json=HELLO), 413)
        assert_refused(await running.chat("tiny", "x" * 2**20), 413)
    assert not engine.asked


async def test_the_salt_is_the_tenants_own(run: Any, registry: Any) -> None:
    """CVE-2025-46570, CVE-2025-25183: what another tenant cached cannot be told from the time."""
    keys = [registry.keys.create(tenant)[1] for tenant in ("one", "one", "two")]
    engine = CountingEngine()
    async with run(engine=engine) as running:
        for secret in keys:
            answer = await running.client.post(
                CHAT,
                json={"model": "tiny"} | HELLO,
                headers={"authorization": f"Bearer {secret}"},
            )
            assert answer.status_code == 200
    first, second, other = (request.cache_salt for request in engine.asked)
    assert first == second != other
    assert len(other) >= 43
    assert not any(secret in other for secret in keys)


class BrokenEngine(EchoEngine):
    """Fails with a message that says too much."""

    async def generate(self, request: Any) -> Any:
        raise RuntimeError(f"<object at 0x7f00> in {__file__}")


async def test_an_error_tells_nothing_of_the_server(run: Any) -> None:
    """CVE-2026-73555, CVE-2026-22778, CVE-2026-54236: paths and addresses in error bodies."""
    async with run(engine=BrokenEngine()) as running:
        assert_refused(await running.chat("tiny"), 500)


@pytest.mark.parametrize("text", ["opl@1@2", "../x", "opl@-1", "", "a b", "opl\0"])
def test_a_reference_is_a_name(text: str) -> None:
    with pytest.raises(BadReference):
        Reference.parse(text)
