"""`/v1/files` with the unmodified openai client; what is odd, too large or another's is refused."""

import asyncio
import resource
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, NotFoundError, OpenAI

from registry.finetuning.objects import RESULTS
from registry.finetuning.request import JobRequest

pytestmark = pytest.mark.anyio

ROW = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


def client_of(running: Any, secret: str = "none") -> AsyncOpenAI:
    return AsyncOpenAI(
        base_url="http://test/v1", api_key=secret, http_client=running.client, max_retries=0
    )


def parts(*names: str, content: bytes = ROW, purpose: str = "fine-tune") -> list[Any]:
    """Multipart fields in this order."""
    made = {"file": ("rows.jsonl", content), "purpose": (None, purpose)}
    return [(name, made[name]) for name in names]


def nothing_is_left(registry: Any) -> bool:
    return not list(registry.settings.staging.iterdir()) and not registry.files.list(None).data


async def test_a_file_goes_up_and_comes_back(run: Any, registry: Any) -> None:
    async with run() as running:
        files = client_of(running).files
        made = [
            await files.create(file=(f"{n}.jsonl", ROW * (n + 1)), purpose="fine-tune")
            for n in range(5)
        ]
        first = await files.wait_for_processing(made[0].id)
        assert (first.filename, first.bytes, first.purpose, first.status) == (
            "0.jsonl",
            len(ROW),
            "fine-tune",
            "processed",
        )
        assert await files.retrieve(made[3].id) == made[3]
        answer = await files.content(made[3].id)
        assert answer.content == ROW * 4
        assert answer.response.headers["content-type"] == "application/octet-stream"
        assert answer.response.headers["x-content-type-options"] == "nosniff"
        assert answer.response.headers["content-disposition"] == "attachment"

        ids = [file.id for file in made]
        assert [file.id async for file in files.list(limit=2)] == ids[::-1]
        assert [file.id async for file in files.list(limit=2, order="asc")] == ids
        page = await files.list(limit=2, after=ids[2], purpose="fine-tune")
        assert ([file.id for file in page.data], page.has_more) == (ids[1::-1], False)
        assert (await files.list(purpose="batch")).data == []

        gone = await files.delete(ids[0])
        assert (gone.id, gone.deleted, gone.object) == (ids[0], True, "file")
        with pytest.raises(NotFoundError, match="There is no file"):
            await files.content(ids[0])
    async with run() as running:  # nothing is lost with the server
        assert [file.id async for file in client_of(running).files.list()] == ids[:0:-1]


async def test_over_a_socket_a_deleted_file_is_read_to_its_end(
    run: Any, registry: Any, free_server: Any, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(ROW * 100_000)

    def use(url: str) -> tuple[Any, bytes, int]:
        with OpenAI(base_url=f"{url}/v1", api_key="none") as client:
            made = client.files.create(file=rows, purpose="fine-tune")
            with client.files.with_streaming_response.content(made.id) as answer:
                came = answer.iter_bytes()
                read = next(came)
                client.files.delete(made.id)
                return made, read + b"".join(came), len(client.files.list().data)

    async with run() as running, free_server(running.app) as url:
        made, read, left = await asyncio.to_thread(use, url)
    assert (made.filename, made.bytes, left) == ("rows.jsonl", len(ROW) * 100_000, 0)
    assert read == rows.read_bytes()
    assert nothing_is_left(registry)


async def test_bad_uploads_are_refused_and_leave_nothing(run: Any, registry: Any) -> None:
    unnamed = b'--x\r\ncontent-disposition: form-data; name="file"\r\n\r\n{}\r\n--x--\r\n'
    form = {"content-type": "multipart/form-data; boundary=x"}
    cases: dict[str, tuple[str | None, dict[str, Any]]] = {
        "another purpose": ("purpose", {"files": parts("purpose", "file", purpose="assistants")}),
        "its own results": ("purpose", {"files": parts("file", "purpose", purpose=RESULTS)}),
        "a huge purpose": ("purpose", {"files": parts("file", "purpose", purpose="x" * 100_000)}),
        "no file": ("file", {"files": parts("purpose")}),
        "no purpose": ("purpose", {"files": parts("file")}),
        "empty": ("file", {"files": parts("purpose", "file", content=b"")}),
        "twice": ("file", {"files": parts("file", "file", "purpose")}),
        "expires": (
            "expires_after[anchor]",
            {"files": [*parts("file", "purpose"), ("expires_after[anchor]", (None, "x"))]},
        ),
        "without a name": ("file", {"content": unnamed, "headers": form}),
        "JSON": (None, {"json": {"file": "x", "purpose": "fine-tune"}}),
        "cut off": (
            None,
            {"content": unnamed[:-9].replace(b'"\r', b'"; filename=a\r'), "headers": form},
        ),
        "no boundary": (
            None,
            {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
        ),
    }
    async with run() as running:
        for case, (param, options) in cases.items():
            answer = await running.client.post("/v1/files", **options)
            assert answer.status_code == 400, (case, answer.text)
            assert answer.json()["error"]["param"] == param, (case, answer.text)
            assert answer.json()["error"]["type"] == "invalid_request_error"
            assert str(registry.settings.home) not in answer.text
        for path in ("/v1/files/a%00b", "/v1/files/..%2Fx/content", "/v1/files/" + "x" * 99):
            assert (await running.client.get(path)).status_code in (400, 404), path
        for query in ("limit=0", "order=up", "after=%00", "after=file-nowhere", "purpose=%00"):
            answer = await running.client.get(f"/v1/files?{query}")
            assert answer.status_code == 400, query
            assert answer.json()["error"]["param"] == query.partition("=")[0]
    assert nothing_is_left(registry)
    assert not running.service.uploading


async def test_only_a_files_safe_name_is_kept_wherever_the_purpose_is(run: Any) -> None:
    names = {
        "../../etc/passwd": "passwd",
        "C:\\data\\rows.jsonl": "rows.jsonl",
        "a\u202egpj\u200f.jsonl": "agpj.jsonl",
        "Überschriften – März.jsonl": "Überschriften – März.jsonl",
        "x" * 400 + ".jsonl": "x" * 249 + ".jsonl",
        "y" * 400: "y" * 255,
    }
    async with run() as running:

        async def sent(name: str, *order: str) -> httpx.Response:
            fields = dict(parts(*order)) | {"file": (name, ROW)}
            return await running.client.post("/v1/files", files=[(n, fields[n]) for n in order])

        for name, kept in names.items():
            assert (await sent(name, "purpose", "file")).json()["filename"] == kept
            assert (await sent(name, "file", "purpose")).json()["filename"] == kept
        for odd in ("..", "/", "a/", "\u202e"):
            answer = await sent(odd, "file", "purpose")
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file"), odd


async def test_files_are_bounded_each_together_and_at_a_time(run: Any, registry: Any) -> None:
    content = ROW * 100
    limits = {"max_body_bytes": 1024, "max_file_bytes": len(content)}
    async with run(max_tenant_file_bytes=2 * len(content), **limits) as running:
        client = running.client
        largest = await client.post("/v1/files", files=parts("file", "purpose", content=content))
        assert largest.status_code == 200
        over = await client.post(
            "/v1/files", files=parts("file", "purpose", content=content + b"x")
        )
        assert (over.status_code, over.json()["error"]["param"]) == (413, "file")
        declared = await client.post("/v1/files", files=parts("file", content=ROW * 2000))
        assert declared.status_code == 413

        await client.post("/v1/files", files=parts("file", "purpose", content=content[:-9]))
        full = await client.post("/v1/files", files=parts("file", "purpose", content=ROW))
        assert (full.status_code, full.json()["error"]["code"]) == (400, "quota_reached")
        await client.delete(f"/v1/files/{largest.json()['id']}")
        room = await client.post("/v1/files", files=parts("file", "purpose", content=ROW))
        assert room.status_code == 200

        running.service.uploading["default"] = 4
        busy = await client.post("/v1/files", files=parts("file", "purpose", content=ROW))
        assert busy.status_code == 429
        assert busy.headers["retry-after"]
    assert not list(registry.settings.staging.iterdir())


async def test_a_full_disk_is_told_and_loses_nothing(run: Any, registry: Any) -> None:
    async with run() as running:
        files = parts("file", "purpose", content=ROW * 10_000)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (256 << 10, before[1]))
        try:
            answer = await running.client.post("/v1/files", files=files)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert (answer.status_code, answer.json()["error"]["type"]) == (503, "server_error")
        assert "disk is full" in answer.json()["error"]["message"]
        assert answer.headers["retry-after"]
        assert nothing_is_left(registry)
        assert (await running.client.post("/v1/files", files=files)).status_code == 200


async def test_a_client_that_goes_away_leaves_nothing(
    run: Any, registry: Any, free_server: Any
) -> None:
    async with run() as running, free_server(running.app) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000\r\n"
            b"content-type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
            b'content-disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
            + ROW
            * 20_000
        )
        await writer.drain()
        async with asyncio.timeout(10):
            while not running.service.uploading:
                await asyncio.sleep(0.01)
            writer.close()
            while running.service.uploading or not nothing_is_left(registry):
                await asyncio.sleep(0.01)


async def test_a_tenants_files_are_its_own(run: Any, registry: Any, base: Any) -> None:
    secrets = {tenant: registry.keys.create(tenant)[1] for tenant in ("acme", "other")}
    _, limited = registry.keys.create("acme", adapters=frozenset({"opl"}))
    async with run() as running:
        ours, theirs = (client_of(running, secrets[t]).files for t in ("acme", "other"))
        file = await ours.create(file=("a.jsonl", ROW), purpose="fine-tune")
        for attempt in (theirs.retrieve, theirs.content, theirs.delete):
            with pytest.raises(NotFoundError) as hidden:
                await attempt(file.id)
            with pytest.raises(NotFoundError) as unknown:
                await attempt("file-nowhere")
            told = hidden.value.message.replace(file.id, "file-nowhere")
            assert told == unknown.value.message
        assert (await theirs.list()).data == []
        headers = {"authorization": f"Bearer {secrets['other']}"}
        after = await running.client.get(f"/v1/files?after={file.id}", headers=headers)
        assert after.status_code == 400

        job = registry.jobs.create(
            JobRequest(model=base.id, training_file=file.id),
            tenant="acme",
            base=base,
            place=str(base.path),
        )
        headers = {"authorization": f"Bearer {secrets['acme']}"}
        used = await running.client.delete(f"/v1/files/{file.id}", headers=headers)
        assert used.status_code == 400
        assert job.id in used.json()["error"]["message"]
        registry.jobs.cancel("acme", job.id)
        assert (await ours.delete(file.id)).deleted

        headers = {"authorization": f"Bearer {limited}"}
        for method, path in (("GET", "/v1/files"), ("POST", "/v1/files"), ("GET", "/v1/files/a")):
            refused = await running.client.request(method, path, headers=headers)
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "key_is_limited")
    async with run(fine_tuning=False) as running:
        headers = {"authorization": f"Bearer {secrets['acme']}"}
        off = await running.client.get("/v1/files", headers=headers)
        assert (off.status_code, off.json()["error"]["code"]) == (403, "fine_tuning_switched_off")


async def test_an_upload_sent_again_is_one_file(run: Any) -> None:
    async with run() as running:

        async def sent(**headers: str) -> str:
            answer: httpx.Response = await running.client.post(
                "/v1/files",
                files=parts("file", "purpose"),
                headers={key.replace("_", "-"): value for key, value in headers.items()},
            )
            return str(answer.json()["id"])

        first = await sent(x_stainless_retry_count="0")
        assert await sent(x_stainless_retry_count="1") == first
        assert await sent(idempotency_key="k") == first
        assert await sent(x_stainless_retry_count="0") != first
