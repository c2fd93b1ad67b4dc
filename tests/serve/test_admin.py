"""The admin routes: what operators do to a running server."""

import asyncio
import io
import resource
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from serve.engine.echo import EchoEngine

pytestmark = pytest.mark.anyio

FILES = ("adapter_config.json", "adapter_model.safetensors")


@pytest.fixture
def admin(registry: Any, run: Any) -> Any:
    """`run`, with a client that sends an admin key."""
    from contextlib import asynccontextmanager

    _, secret = registry.keys.create("ops", admin=True)

    @asynccontextmanager
    async def running(*arguments: Any, **options: Any) -> Any:
        async with run(*arguments, **options) as started:
            started.client.headers["authorization"] = f"Bearer {secret}"
            yield started

    return running


async def test_list_load_and_unload(admin: Any, publish: Any) -> None:
    publish("opl", seed=1)
    publish("opl", seed=2)
    async with admin() as running:

        async def states() -> dict[str, str]:
            listed = (await running.client.get("/admin/adapters")).json()["data"]
            return {row["id"]: row["state"] for row in listed}

        assert await states() == {"opl@1": "cold", "opl@2": "cold"}
        loaded = await running.client.post("/admin/adapters/opl@1/load")
        assert (loaded.status_code, loaded.json()["state"]) == (200, "loaded")
        assert await states() == {"opl@1": "loaded", "opl@2": "cold"}
        unloaded = await running.client.post("/admin/adapters/opl@1/unload")
        assert unloaded.json()["state"] == "cold"
        again = await running.client.post("/admin/adapters/opl@1/unload")
        assert again.status_code == 200
        unknown = await running.client.post("/admin/adapters/nobody/load")
        assert unknown.status_code == 404


async def test_nothing_in_use_is_unloaded_or_removed(admin: Any, publish: Any) -> None:
    publish("opl")
    engine = EchoEngine(token_seconds=0.2)
    async with admin(engine=engine) as running:
        asked = asyncio.create_task(running.chat("opl", "a b c"))
        while not engine.running:
            await asyncio.sleep(0.01)
        refused = await running.client.post("/admin/adapters/opl/unload")
        assert refused.status_code == 503
        assert (await running.client.delete("/admin/adapters/opl@1")).status_code == 503
        assert (await asked).status_code == 200
        vague = await running.client.delete("/admin/adapters/opl")
        assert vague.status_code == 400
        removed = await running.client.delete("/admin/adapters/opl@1")
        assert removed.json() == {"id": "opl@1", "object": "model", "deleted": True}
        assert (await running.chat("opl")).status_code == 404


async def test_promote_canary_and_rollback(admin: Any, publish: Any) -> None:
    publish("opl", seed=1)
    publish("opl", seed=2)
    async with admin() as running:

        async def promote(**body: Any) -> Any:
            return await running.client.post(
                "/admin/adapters/opl/promote", json={"force": "a test"} | body
            )

        async def answers() -> dict[str, int]:
            counts: dict[str, int] = {}
            for user in range(200):
                answer = await running.chat("opl", user=f"user-{user}")
                model = answer.json()["model"]
                assert answer.headers["x-lorikeet-model"].startswith(f"{model}+")
                counts[model] = counts.get(model, 0) + 1
            return counts

        assert (await promote(version=1)).status_code == 200
        assert await answers() == {"opl@1": 200}
        assert (await promote(version=2, canary=20)).status_code == 200
        first = await answers()
        assert 20 <= first["opl@2"] <= 60
        assert await answers() == first  # sticky by user
        listed = (await running.client.get("/admin/adapters")).json()
        assert listed["canaries"] == [{"alias": "opl@prod", "version": 2, "percent": 20}]
        assert (await running.client.post("/admin/adapters/opl/rollback", json={})).json()[
            "id"
        ] == "opl@1"
        assert await answers() == {"opl@1": 200}
        assert (await promote(version=9)).status_code == 404
        held_back = await promote(version=2, force=None)
        assert held_back.status_code == 400
        assert "lorikeet eval opl@2" in held_back.json()["error"]["message"]
        assert (await promote(version=2, canary=0)).status_code == 400
        assert (await promote(version=2, alias="latest")).status_code == 400


async def test_an_alias_that_has_moved_meanwhile_is_left_alone(admin: Any, publish: Any) -> None:
    for seed in (1, 2, 3):
        publish("opl", seed=seed)
    async with admin() as running:

        async def promote(**body: Any) -> Any:
            return await running.client.post(
                "/admin/adapters/opl/promote", json={"force": "a test"} | body
            )

        assert (await promote(version=1, expected=0)).status_code == 200
        assert (await promote(version=2, expected=1)).status_code == 200
        for body in ({"expected": 1}, {"expected": 0}, {"expected": 1, "canary": 10}):
            refused = await promote(version=3, **body)
            assert refused.status_code == 409
            assert refused.json()["error"]["code"] == "alias_moved"
            assert "points at version 2" in refused.json()["error"]["message"]
        assert (await promote(version=3, expected=-1)).status_code == 400
        card = (await running.client.get("/v1/models/opl")).json()
        assert card["root"] == "opl@2"


def _zip(adapter: Path, prefix: str = "") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in FILES:
            archive.write(adapter / name, prefix + name)
    return buffer.getvalue()


def _tar(adapter: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(adapter, "adapter")
    return buffer.getvalue()


@pytest.fixture
def adapter(tmp_path: Path, make_adapter: Any, base: Any) -> Path:
    folder: Path = make_adapter(tmp_path / "made", base, seed=5)
    return folder


@pytest.mark.parametrize("kind", ["folder", "zip", "zip in a folder", "tar.gz"])
async def test_upload(admin: Any, registry: Any, adapter: Path, kind: str) -> None:
    if kind == "folder":
        files = [("file", (f"made/{n}", (adapter / n).read_bytes())) for n in FILES]
        files.append(("file", ("made/README.md", b"# card")))
    elif kind == "tar.gz":
        files = [("file", ("made.tar.gz", _tar(adapter)))]
    else:
        files = [("file", ("made.zip", _zip(adapter, "made/" if "folder" in kind else "")))]
    async with admin() as running:
        answer = await running.client.post("/admin/adapters/sent", files=files)
        assert answer.status_code == 201, answer.text
        assert answer.json()["id"] == "sent@1"
        assert (await running.chat("sent")).status_code == 200
    assert registry.get("sent").manifest.origin == "upload"
    assert list(registry.settings.staging.iterdir()) == []


async def test_bad_uploads_are_refused_and_leave_nothing(
    admin: Any, registry: Any, adapter: Path
) -> None:
    weights = (adapter / FILES[1]).read_bytes()
    config = (adapter / FILES[0]).read_bytes()
    parts = {FILES[0]: config, FILES[1]: weights}

    def files(**changed: bytes | None) -> list[Any]:
        return [("file", item) for item in (parts | changed).items() if item[1] is not None]

    cases: dict[str, Any] = {
        "nothing": {"files": [("file", ("notes.txt", b"hello"))]},
        "half": {"files": files(**{FILES[1]: None})},
        "broken weights": {"files": files(**{FILES[1]: weights[:-9]})},
        "twice": {"files": files() + files()},
        "archive and file": {"files": [*files(), ("file", ("a.zip", _zip(adapter)))]},
        "not an archive": {"files": [("file", ("a.zip", b"PK not really"))]},
        "not multipart": {"content": b"{}"},
        "cut off": {
            "content": b'--x\r\ncontent-disposition: form-data; filename="a.zip"\r\n\r\nPK',
            "headers": {"content-type": "multipart/form-data; boundary=x"},
        },
        "no boundary": {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
    }
    async with admin() as running:
        for case, options in cases.items():
            answer = await running.client.post("/admin/adapters/sent", **options)
            assert answer.status_code == 400, (case, answer.text)
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
            assert str(registry.settings.home) not in answer.text, case
        for name in ("../x", "UPPER", "text"):
            answer = await running.client.post(f"/admin/adapters/{name}", files=files())
            assert answer.status_code in (400, 404), name
    assert registry.list() == []
    assert list(registry.settings.staging.iterdir()) == []


async def test_an_upload_is_bounded_and_only_an_admins_may_be_large(
    admin: Any, registry: Any, adapter: Path
) -> None:
    files = [("file", ("a.zip", _zip(adapter)))]
    _, plain = registry.keys.create("acme")
    async with admin(max_body_bytes=2048, max_upload_bytes=10_000) as running:
        assert (await running.client.post("/admin/adapters/sent", files=files)).status_code == 413
    async with admin(max_body_bytes=2048) as running:
        headers = {"authorization": f"Bearer {plain}"}
        for path in ("/admin/adapters/sent", "/v1/chat/completions"):
            answer = await running.client.post(path, files=files, headers=headers)
            assert answer.status_code == 413, path
        assert (await running.client.post("/admin/adapters/sent", files=files)).status_code == 201


async def test_a_full_disk_is_told_and_loses_nothing(
    admin: Any, registry: Any, publish: Any, adapter: Path
) -> None:
    publish("good")
    files = [("file", ("a.zip", _zip(adapter)))]
    async with admin() as running:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 10, before[1]))
        try:
            answer = await running.client.post("/admin/adapters/sent", files=files)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert (await running.chat("good")).status_code == 200
        assert (await running.client.post("/admin/adapters/sent", files=files)).status_code == 201
    assert [v.reference for v in registry.list()] == ["good@1", "sent@1"]
    assert list(registry.settings.staging.iterdir()) == []


async def test_drain_and_resume(admin: Any) -> None:
    engine = EchoEngine(token_seconds=0.1)
    async with admin(engine=engine) as running:
        base = running.service.base.id
        asked = asyncio.create_task(running.chat(base, "a b c d"))
        while not engine.running:
            await asyncio.sleep(0.01)
        drained = await running.client.post("/admin/drain")
        assert drained.json() == {"status": "draining", "in_flight": 1}
        assert (await running.client.get("/ready")).status_code == 503
        assert (await running.client.get("/health")).status_code == 200
        refused = await running.chat(base)
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        assert (await asked).status_code == 200
        assert (await running.client.post("/admin/resume")).json()["status"] == "ready"
        assert (await running.chat(base)).status_code == 200


async def test_keys_by_http(admin: Any, publish: Any) -> None:
    publish("opl")
    async with admin() as running:
        made = await running.client.post(
            "/admin/keys", json={"tenant": "acme", "adapters": ["opl"], "rpm": 60}
        )
        assert made.status_code == 201
        secret, key_id = made.json()["key"], made.json()["id"]
        answer = await running.client.get(
            "/v1/models", headers={"authorization": f"Bearer {secret}"}
        )
        assert answer.status_code == 200
        listed = await running.client.get("/admin/keys")
        assert secret not in listed.text
        assert {row["tenant"] for row in listed.json()["data"]} == {"ops", "acme"}
        limits = {"rpm": 1, "concurrency": None}
        limited = await running.client.patch(f"/admin/keys/{key_id}", json=limits)
        assert (limited.json()["rpm"], limited.json()["tpm"]) == (1, None)
        wrong = await running.client.patch(f"/admin/keys/{key_id}", json={"rpm": 0})
        assert wrong.status_code == 400
        unknown = await running.client.patch("/admin/keys/000000000000", json=limits)
        assert unknown.status_code == 404
        revoked = await running.client.delete(f"/admin/keys/{key_id}")
        assert revoked.json()["active"] is False
        assert (await running.client.delete("/admin/keys/000000000000")).status_code == 404
        for body in ({"tenant": ""}, {"tenant": "a", "rpm": 0}, {"tenant": "a", "x": 1}, {}):
            bad = await running.client.post("/admin/keys", json=body)
            assert bad.status_code == 400, body
            assert "error" in bad.json()


async def test_status_says_who_waits_and_who_is_served(admin: Any) -> None:
    async with admin() as running:
        status = (await running.client.get("/admin/status")).json()
    assert status["status"] == "ready"
    assert status["slots"] == 8
    assert "admission" in status
