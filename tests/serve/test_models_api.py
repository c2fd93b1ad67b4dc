"""`/v1/models` where tenants have models of their own: who sees them, who deletes them."""

import asyncio
from typing import Any

import pytest
from openai import AsyncOpenAI, NotFoundError, PermissionDeniedError

from registry.finetuning.objects import FINE_TUNE, Job
from registry.finetuning.request import JobRequest
from serve.engine.echo import EchoEngine

pytestmark = pytest.mark.anyio


@pytest.fixture
def model(registry: Any, base: Any, train: Any) -> Any:
    """Make a model of a tenant; gives its job."""

    def made(tenant: str) -> Job:
        with registry.files.receiving() as incoming:
            incoming.write(b"{}\n")
            file = registry.files.add(
                incoming, tenant=tenant, purpose=FINE_TUNE, filename="rows.jsonl"
            )
        request = JobRequest(model=base.id, training_file=file.id, suffix="mine")
        registry.jobs.create(request, tenant=tenant, base=base, place=str(base.path))
        done: Job = train()
        return done

    return made


async def test_a_tenants_models_are_for_its_keys_and_those_that_name_them(
    run: Any, registry: Any, publish: Any, model: Any
) -> None:
    publish("opl")
    job = model("acme")
    name = job.fine_tuned_model
    step = f"{name}:ckpt-step-2"
    names = [name, step, "ft.acme.mine", "ft.acme.mine@1", "ft.acme.mine@latest"]
    keys = {
        "its own": ({"tenant": "acme"}, True),
        "one that names it": ({"tenant": "other", "adapters": ["ft.acme.mine"]}, True),
        "an admin's": ({"tenant": "ops", "admin": True}, True),
        "another's": ({"tenant": "other"}, False),
        "one that names others": ({"tenant": "acme", "adapters": ["opl"]}, False),
    }
    async with run() as running:  # open: no key was made yet
        assert (await running.chat(name)).status_code == 200
    secrets = {who: registry.keys.create(**options)[1] for who, (options, _) in keys.items()}
    async with run() as running:
        for who, (options, sees) in keys.items():
            running.client.headers["authorization"] = f"Bearer {secrets[who]}"
            listed = [c["id"] for c in (await running.client.get("/v1/models")).json()["data"]]
            status = 200 if sees else 404
            for asked in names:
                if asked == step and options.get("adapters"):
                    continue  # a key's list has to name `ft.acme.mine.steps` too
                assert (await running.chat(asked)).status_code == status, (who, asked)
                shown = await running.client.get(f"/v1/models/{asked}")
                assert shown.status_code == status, (who, asked)
            assert (name in listed) == ("ft.acme.mine@1" in listed) == sees, who
            assert ("opl" in listed) == (options.get("adapters") != ["ft.acme.mine"])
            if sees:
                card = (await running.client.get(f"/v1/models/{name}")).json()
                assert (card["owned_by"], card["root"]) == ("acme", "ft.acme.mine@1")
                assert card["parent"] == running.service.base.id
            hidden = await running.chat("ft:nobody")
            assert hidden.status_code == 404
            assert hidden.json()["error"]["code"] == "model_not_found"


async def test_a_tenant_deletes_its_own_models_only(
    run: Any, registry: Any, publish: Any, model: Any
) -> None:
    publish("opl")
    theirs, ours, aliased = model("other"), model("acme"), model("third")
    _, own = registry.keys.create("acme")
    _, naming = registry.keys.create("acme", adapters=frozenset({ours.adapter}))
    _, admin = registry.keys.create("ops", admin=True)
    registry.promote(aliased.adapter, 1, "stable", force="a test")
    engine = EchoEngine(token_seconds=0.1)
    async with run(engine=engine) as running:

        def models(secret: str) -> Any:
            client = AsyncOpenAI(
                base_url="http://test/v1",
                api_key=secret,
                http_client=running.client,
                max_retries=0,
            )
            return client.models

        for name in (running.service.base.id, "opl", "opl@1", f"{ours.adapter}@1"):
            with pytest.raises(PermissionDeniedError, match="no fine-tuned model"):
                await models(own).delete(name)
        with pytest.raises(PermissionDeniedError, match="not delete it"):
            await models(naming).delete(ours.fine_tuned_model)
        for name in (theirs.fine_tuned_model, "ft:nobody", "ft:a\0", "nobody", "a b"):
            with pytest.raises(NotFoundError) as hidden:
                await models(own).delete(name)
            assert hidden.value.code == "model_not_found"

        headers = {"authorization": f"Bearer {own}"}
        body = {"model": ours.fine_tuned_model, "prompt": "a b c d"}
        asked = asyncio.create_task(
            running.client.post("/v1/completions", json=body, headers=headers)
        )
        while not engine.running:
            await asyncio.sleep(0.01)
        path = f"/v1/models/{ours.fine_tuned_model}"
        busy = await running.client.delete(path, headers=headers)
        assert busy.status_code == 503
        assert busy.headers["retry-after"]
        assert (await asked).status_code == 200

        gone = await models(own).delete(ours.fine_tuned_model)
        assert (gone.id, gone.object, gone.deleted) == (ours.fine_tuned_model, "model", True)
        with pytest.raises(NotFoundError):
            await models(own).delete(ours.fine_tuned_model)
        listed = [card.id async for card in models(own).list()]
        assert not {ours.fine_tuned_model, f"{ours.adapter}@1"} & set(listed)
        assert f"{ours.fine_tuned_model}:ckpt-step-2" in listed
        assert running.service.adapters.loaded == []

        assert (await models(admin).delete(theirs.fine_tuned_model)).deleted
        held = await running.client.delete(
            f"/v1/models/{aliased.fine_tuned_model}", headers={"authorization": f"Bearer {admin}"}
        )
        assert held.status_code == 400
        assert "stable" in held.json()["error"]["message"]
    assert registry.jobs.get("acme", ours.id).fine_tuned_model == ours.fine_tuned_model
