"""`/v1/fine_tuning/jobs` with the unmodified openai client; a worker's part is played here."""

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fine_tuning import ROW
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI

from registry.errors import RegistryUnavailable
from registry.finetuning.objects import RESULTS

pytestmark = pytest.mark.anyio

JOBS = "/v1/fine_tuning/jobs"


def client_of(running: Any, secret: str = "none") -> AsyncOpenAI:
    return AsyncOpenAI(
        base_url="http://test/v1", api_key=secret, http_client=running.client, max_retries=0
    )


async def sent(client: AsyncOpenAI) -> str:
    return (await client.files.create(file=("rows.jsonl", ROW), purpose="fine-tune")).id


async def test_from_a_file_to_a_model_that_answers(run: Any, train: Any) -> None:
    async with run() as running:
        client, base = client_of(running), running.service.base.id
        jobs, file = client.fine_tuning.jobs, await sent(client)
        made = await jobs.create(
            model=base,
            training_file=file,
            suffix="Support",
            seed=7,
            metadata={"team": "helpdesk"},
            method={
                "type": "supervised",
                "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto"}},
            },
            extra_body={"lorikeet": {"rank": 8, "quantization": "none", "priority": 3}},
        )
        assert made.object == "fine_tuning.job"
        assert (made.status, made.model, made.seed) == ("validating_files", base, 7)
        assert (made.training_file, made.validation_file) == (file, None)
        assert (made.organization_id, made.metadata) == ("default", {"team": "helpdesk"})
        assert (made.hyperparameters.n_epochs, made.hyperparameters.batch_size) == (2, "auto")
        assert (made.fine_tuned_model, made.finished_at, made.error) == (None, None, None)
        assert made.model_extra is not None
        assert made.model_extra["lorikeet"] == {
            "rank": 8,
            "quantization": "none",
            "certify": True,
            "priority": 3,
            "version": None,
        }
        assert await jobs.retrieve(made.id) == made

        train()
        done = await jobs.retrieve(made.id)
        assert (done.status, done.trained_tokens) == ("succeeded", 99)
        model = done.fine_tuned_model
        assert model is not None
        assert model.startswith(f"ft:{base}:default:Support:")
        results = await client.files.content(done.result_files[0])
        assert results.text.startswith("step,train_loss")
        assert (await client.files.retrieve(done.result_files[0])).purpose == RESULTS

        events = [event async for event in jobs.list_events(made.id, limit=2)]
        assert events[0].message == "The job has successfully completed"
        assert [e.data["train_loss"] for e in events if e.type == "metrics"] == [1.0, 2.0]  # type: ignore[index]
        assert len({event.id for event in events}) == len(events) > 6
        (checkpoint,) = [c async for c in jobs.checkpoints.list(made.id)]
        assert (checkpoint.step_number, checkpoint.metrics.train_loss) == (2, 1.0)
        assert checkpoint.fine_tuned_model_checkpoint == f"{model}:ckpt-step-2"

        versions = {model: "ft.default.support@1", f"{model}:ckpt-step-2": None}
        for name, version in versions.items():
            answer = await client.chat.completions.create(
                model=name, messages=[{"role": "user", "content": "hello"}]
            )
            assert answer.model == (version or "ft.default.support.steps@1")
        listed = {card.id: card async for card in client.models.list()}
        assert {base, *versions, "ft.default.support@1"} <= set(listed)
        assert listed[model].owned_by == "default"
        assert (await client.models.retrieve(model)).model_extra["root"] == versions[model]  # type: ignore[index]
    async with run() as running:  # a server that is started again serves it
        assert (await running.chat(model)).status_code == 200


async def test_the_sync_client_pauses_resumes_and_cancels(run: Any, free_server: Any) -> None:
    def use(url: str, base: str) -> None:
        with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            jobs = client.fine_tuning.jobs
            file = client.files.create(file=("rows.jsonl", ROW), purpose="fine-tune")
            made = jobs.create(model=base, training_file=file.id)
            assert jobs.pause(made.id).status == "paused"  # type: ignore[comparison-overlap]
            with pytest.raises(BadRequestError, match="is paused"):
                jobs.pause(made.id)
            assert jobs.resume(made.id).status == "validating_files"
            with pytest.raises(BadRequestError):
                jobs.resume(made.id)
            ended = jobs.cancel(made.id)
            assert ended.status == "cancelled"
            assert ended.finished_at is not None
            for move in (jobs.cancel, jobs.pause, jobs.resume):
                with pytest.raises(BadRequestError, match="is cancelled") as refused:
                    move(made.id)
                assert refused.value.type == "invalid_request_error"
            told = [event.message for event in jobs.list_events(made.id)]
            assert told[:3] == [
                "The job was cancelled",
                "The job was resumed",
                "The job was paused",
            ]

    async with run() as running, free_server(running.app) as url:
        await asyncio.to_thread(use, url, running.service.base.id)


async def test_a_bad_request_is_told_by_its_field(run: Any, registry: Any) -> None:
    async with run() as running:
        client, base = client_of(running), running.service.base.id
        file, deleted = await sent(client), await sent(client)
        await client.files.delete(deleted)
        with registry.files.receiving() as incoming:
            incoming.write(b"step\n1\n")
            results = registry.files.add(
                incoming, tenant="default", purpose=RESULTS, filename="metrics.csv"
            )
        numbers = "hyperparameters"
        supervised = "method.supervised.hyperparameters"
        cases: list[tuple[dict[str, Any], str | None, str]] = [
            ({"training_file": None}, "training_file", "should be a valid string"),
            ({"training_file": "file-nowhere"}, "training_file", "There is no file"),
            ({"training_file": deleted}, "training_file", "There is no file"),
            ({"training_file": results.id}, "training_file", "purpose"),
            ({"validation_file": results.id}, "validation_file", "purpose"),
            ({"validation_file": deleted}, "validation_file", "There is no file"),
            ({"suffix": "a b"}, "suffix", "1 to 64 letters"),
            ({"suffix": "é"}, "suffix", "1 to 64 letters"),
            ({"suffix": "x" * 65}, "suffix", "1 to 64 letters"),
            ({"suffix": "a:b"}, "suffix", "1 to 64 letters"),
            ({"seed": -1}, "seed", "greater than or equal to 0"),
            ({"metadata": {"a": 1}}, "metadata.a", "should be a valid string"),
            ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "at most 16"),
            ({numbers: {"n_epochs": 0}}, f"{numbers}.n_epochs", "'auto' or greater than"),
            ({numbers: {"n_epochs": 51}}, f"{numbers}.n_epochs", "less than or equal to 50"),
            ({numbers: {"batch_size": "all"}}, f"{numbers}.batch_size", "'auto'"),
            (
                {"method": {"type": "supervised", "supervised": {numbers: {"batch_size": 0}}}},
                f"{supervised}.batch_size",
                "greater than or equal to 1",
            ),
            (
                {numbers: {"learning_rate_multiplier": 1e9}},
                f"{numbers}.learning_rate_multiplier",
                "less than or equal to 100",
            ),
            ({"method": {"type": "dpo"}}, "method.type", "'supervised'"),
            ({numbers: {}, "method": {"type": "supervised"}}, None, "not both"),
            ({"integrations": [{"type": "wandb"}]}, "integrations", "at most 0"),
            ({"n_epochs": 3}, "n_epochs", "Unknown field `n_epochs`. The request takes"),
            ({"lorikeet": {"rank": 65}}, "lorikeet.rank", "less than or equal to 64"),
            ({"lorikeet": {"targets": [1]}}, "lorikeet.targets", "'all-linear'"),
            (
                {"lorikeet": {"rnk": 8, "epochs": 3}},
                "lorikeet.rnk",
                "Unknown fields `lorikeet.rnk`, `lorikeet.epochs`. Did you mean `rank`? "
                "`lorikeet` takes rank, alpha, ",
            ),
            ({"model": f"ft:{base}:default:x:12345678"}, "model", "not supported"),
            ({"model": None}, "model", "should be a valid string"),
        ]
        for change, param, words in cases:
            answer = await running.client.post(
                JOBS, json={"model": base, "training_file": file} | change
            )
            error = answer.json()["error"]
            assert answer.status_code == 400, (change, error)
            assert error["param"] == param, (change, error)
            assert words in error["message"], (change, error)
            assert str(registry.settings.home) not in answer.text
        with pytest.raises(NotFoundError, match=f"base is `{base}`") as unknown:
            await client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=file)
        assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
        for raw in (b"", b"{", b"[]", b'{"model": NaN}', b'{"seed": 1, "seed": 2}', b'"\\u0000"'):
            answer = await running.client.post(JOBS, content=raw)
            assert (answer.status_code, set(answer.json()["error"])) == (
                400,
                {"message", "type", "param", "code"},
            )
        for path in ("a%00b", "x" * 99, "..%2Fx/events", "ftjob-nowhere/events"):
            assert (await running.client.get(f"{JOBS}/{path}")).status_code in (400, 404), path
        for query in ("limit=0", "limit=many", "after=%00", "after=ftjob-nowhere"):
            answer = await running.client.get(f"{JOBS}?{query}")
            assert answer.status_code == 400, query
            assert answer.json()["error"]["param"] == query.partition("=")[0]
        assert (await running.client.get(JOBS)).json()["data"] == []


async def test_a_request_sent_again_makes_one_job(run: Any, registry: Any) -> None:
    async with run(max_tenant_jobs=3) as running:
        client = client_of(running)
        body = {"model": running.service.base.id, "training_file": await sent(client)}

        async def made(**headers: str) -> httpx.Response:
            return await running.client.post(
                JOBS,
                json=body,
                headers={key.replace("_", "-"): value for key, value in headers.items()},
            )

        async def id_of(**headers: str) -> str:
            return str((await made(**headers)).json()["id"])

        first = await id_of(x_stainless_retry_count="0")
        assert await id_of(x_stainless_retry_count="1") == first
        assert await id_of(x_stainless_retry_count="0") != first  # asked for twice
        third = await id_of(idempotency_key="c")
        assert await id_of(idempotency_key="c") == third != first
        full = await made(idempotency_key="d")
        assert (full.status_code, full.json()["error"]["code"]) == (400, "quota_reached")
        registry.jobs.cancel("default", first)
        assert (await made(idempotency_key="d")).status_code == 200
    assert len(registry.jobs.list(None).data) == 4


async def test_lists_page_and_filter_by_metadata(run: Any) -> None:
    async with run() as running:
        client, base = client_of(running), running.service.base.id
        jobs, file = client.fine_tuning.jobs, await sent(client)
        labels = [{"team": "a"}, {"team": "b", "odd ]=[\n'": "é"}, None, {"team": "a", "n": ""}]
        ids = [
            (await jobs.create(model=base, training_file=file, metadata=each)).id for each in labels
        ]
        assert [job.id async for job in jobs.list(limit=1)] == ids[::-1]
        page = await jobs.list(limit=3)
        assert ([job.id for job in page.data], page.has_more) == (ids[:0:-1], True)
        page = await jobs.list(limit=3, after=ids[1])
        assert ([job.id for job in page.data], page.has_more) == (ids[:1], False)
        for metadata, found in (
            ({"team": "a"}, [ids[3], ids[0]]),
            ({"team": "a", "n": ""}, [ids[3]]),
            ({"odd ]=[\n'": "é"}, [ids[1]]),
            ({"team": "c"}, []),
            ({'"': "x"}, []),
        ):
            assert [job.id async for job in jobs.list(metadata=metadata, limit=1)] == found
        without = await jobs.list(extra_query={"metadata": "null"})
        assert [job.id for job in without.data] == [ids[2]]
        many = "&".join(f"metadata[{n}]=x" for n in range(17))
        for query in ("metadata=x", "metadata[a]=%00", "metadata[a]=1&metadata[a]=2", many):
            answer = await running.client.get(f"{JOBS}?{query}")
            assert answer.status_code == 400, query
            assert answer.json()["error"]["param"] == "metadata"


async def test_a_worker_elsewhere_is_told_where_the_base_is(
    run: Any, registry: Any, embedded_base: Any, home: Any
) -> None:
    async with run() as running:
        service, tiny = running.service, running.service.base
        client = client_of(running)
        made = await client.fine_tuning.jobs.create(model=tiny.id, training_file=await sent(client))
        job = registry.jobs.get("default", made.id)
        assert (job.base_place, job.base_digest) == (str(tiny.path), tiny.digest)
        assert job.base_place not in made.to_json()
        service.base = replace(tiny, id="org/model", revision="0123abc")
        assert service.base_place == "org/model@0123abc"
        service.base = replace(embedded_base, path=home / "bases" / embedded_base.id)
        assert service.base_place == embedded_base.id


async def test_a_tenants_jobs_are_its_own(run: Any, registry: Any, train: Any) -> None:
    secrets = {tenant: registry.keys.create(tenant)[1] for tenant in ("acme", "other")}
    _, limited = registry.keys.create("acme", adapters=frozenset({"opl"}))
    async with run() as running:
        ours, theirs = (client_of(running, secrets[t]) for t in ("acme", "other"))
        base, file = running.service.base.id, await sent(ours)
        job = await ours.fine_tuning.jobs.create(model=base, training_file=file)
        assert job.organization_id == "acme"
        jobs = theirs.fine_tuning.jobs
        for attempt in (
            jobs.retrieve,
            jobs.cancel,
            jobs.pause,
            jobs.resume,
            jobs.list_events,
            jobs.checkpoints.list,
        ):
            with pytest.raises(NotFoundError) as hidden:
                await attempt(job.id)
            with pytest.raises(NotFoundError) as unknown:
                await attempt("ftjob-nowhere")
            assert hidden.value.message.replace(job.id, "ftjob-nowhere") == unknown.value.message
        assert (await jobs.list()).data == []
        with pytest.raises(BadRequestError, match="There is no file"):
            await jobs.create(model=base, training_file=file)
        event = (await ours.fine_tuning.jobs.list_events(job.id)).data[0].id
        own = await jobs.create(model=base, training_file=await sent(theirs))
        with pytest.raises(BadRequestError) as wrong:
            await jobs.list_events(own.id, after=event)
        assert wrong.value.param == "after"
        assert (await ours.fine_tuning.jobs.retrieve(job.id)).status == "validating_files"

        headers = {"authorization": f"Bearer {limited}"}
        for method, path in (("GET", JOBS), ("POST", JOBS), ("GET", f"{JOBS}/{job.id}/events")):
            refused = await running.client.request(method, path, headers=headers)
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "key_is_limited")
    async with run(fine_tuning=False) as running:
        headers = {"authorization": f"Bearer {secrets['acme']}"}
        off = await running.client.get(JOBS, headers=headers)
        assert (off.status_code, off.json()["error"]["code"]) == (403, "fine_tuning_switched_off")


async def test_a_database_that_is_away_is_503(
    run: Any, registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise RegistryUnavailable("/secret/registry.db cannot be used")

    async with run() as running:
        for name in ("get", "list", "cancel"):
            monkeypatch.setattr(registry.jobs, name, away)
        for method, path in (("GET", "/x"), ("GET", ""), ("POST", "/x/cancel")):
            answer = await running.client.request(method, JOBS + path)
            assert answer.status_code == 503
            assert answer.headers["retry-after"]
            assert "secret" not in answer.text
