"""OpenAI's fine-tuning API, from the unmodified client to a real run and the real engine."""

import asyncio
import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from openai import AsyncOpenAI, NotFoundError, OpenAI
from openai.types.fine_tuning import FineTuningJob

from registry import DEFAULT_BASE, Registry, RegistrySettings

ROWS = Path(__file__).parents[2] / "train" / "examples" / "opl" / "train.jsonl"
HELD_OUT = ROWS.with_name("heldout.jsonl")
SOURCE_ROWS = 6
SECONDS = 300
UNFINISHED = ("validating_files", "queued", "running")
STEPS = 15
"""6 rows, 2 a step, 5 epochs."""
METHOD = {
    "type": "supervised",
    "supervised": {
        "hyperparameters": {"n_epochs": 5, "batch_size": 2, "learning_rate_multiplier": 4}
    },
}
OPTIONS = {"rank": 8, "baselines": False, "max_eval_rows": 4, "checkpoint_steps": 3}


@contextmanager
def worker(home: Path, server: str | None = None) -> Iterator[None]:
    """`lorikeet worker` as an operator starts it; told to stop at the end."""
    command = [sys.executable, "-m", "lorikeet", "worker"]
    if server is not None:
        command += ["--server", server]
    env = {**os.environ, "LORIKEET_HOME": str(home)}
    with (home / "worker.log").open("ab") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def finished(client: OpenAI, job_id: str) -> FineTuningJob:
    deadline = time.monotonic() + SECONDS
    while (job := client.fine_tuning.jobs.retrieve(job_id)).status in UNFINISHED:
        assert time.monotonic() < deadline, job
        time.sleep(0.2)
    return job


def steps_told(client: OpenAI, job_id: str) -> list[int]:
    """The steps whose metrics were told, in their order."""
    events = list(client.fine_tuning.jobs.list_events(job_id, limit=100))
    assert len({event.id for event in events}) == len(events)
    return [
        int(event.data["step"])  # type: ignore[index]
        for event in reversed(events)
        if event.type == "metrics"
    ]


@pytest.fixture(scope="module")
def rows(client: OpenAI, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of the uploaded training file."""
    path = tmp_path_factory.mktemp("rows") / "opl.jsonl"
    path.write_text("\n".join(ROWS.read_text().splitlines()[:SOURCE_ROWS]) + "\n")
    file = client.files.create(file=path, purpose="fine-tune")
    return client.files.wait_for_processing(file.id).id


@pytest.fixture(scope="module")
def held_out(client: OpenAI) -> str:
    """The id of the uploaded validation file."""
    return client.files.create(file=HELD_OUT, purpose="fine-tune").id


def create(client: OpenAI, rows: str, held_out: str) -> FineTuningJob:
    return client.fine_tuning.jobs.create(
        model=DEFAULT_BASE,
        training_file=rows,
        validation_file=held_out,
        suffix="opl",
        seed=11,
        method=METHOD,  # type: ignore[arg-type]
        extra_body={"lorikeet": OPTIONS},
    )


def test_upload_train_and_chat(
    client: OpenAI, server: str, e2e_home: Path, rows: str, held_out: str
) -> None:
    job = create(client, rows, held_out)
    assert job.status == "validating_files"
    with worker(e2e_home, server):
        done = finished(client, job.id)
    assert done.status == "succeeded", (done.error, (e2e_home / "worker.log").read_text())
    assert done.fine_tuned_model is not None
    assert done.fine_tuned_model.startswith(f"ft:{DEFAULT_BASE}:{done.organization_id}:opl:")
    assert (done.trained_tokens or 0) > 0

    told = steps_told(client, job.id)
    assert told == list(range(1, STEPS + 1))
    (results,) = done.result_files
    table = list(csv.DictReader(client.files.content(results).text.splitlines()))
    assert [int(line["step"]) for line in table] == told
    assert float(table[-1]["train_loss"]) < float(table[0]["train_loss"]) / 2

    checkpoints = client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert [checkpoint.step_number for checkpoint in checkpoints] == [STEPS, STEPS - 3, STEPS - 6]
    asked = [
        done.fine_tuned_model,
        checkpoints[0].fine_tuned_model_checkpoint,
        checkpoints[-1].fine_tuned_model_checkpoint,
    ]
    question = "Who created the OPL programming language?"
    said = {}
    for model in [DEFAULT_BASE, *asked]:
        answer = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question}],
            max_tokens=24,
            temperature=0,
        )
        said[model] = answer.choices[0].message.content
    assert said[asked[0]] == said[asked[1]]  # the last epoch's checkpoint is the model
    assert said[asked[0]] != said[DEFAULT_BASE]
    assert {*asked} <= {model.id for model in client.models.list()}

    with Registry.open(RegistrySettings(home=e2e_home)) as registry:
        version = registry.get(done.fine_tuned_model)
        assert version.manifest.evaluation is not None
        assert version.manifest.certificate is not None
        assert version.manifest.certificate["passed"]

    client.models.delete(asked[-1])
    with pytest.raises(NotFoundError):
        client.models.retrieve(asked[-1])


def test_the_async_client_follows_and_cancels(
    client: OpenAI, server: str, e2e_home: Path, rows: str, held_out: str
) -> None:
    async def follow() -> tuple[str, str]:
        async with AsyncOpenAI(base_url=f"{server}/v1", api_key="none") as aclient:
            jobs = aclient.fine_tuning.jobs
            job = await jobs.create(
                model=DEFAULT_BASE, training_file=rows, extra_body={"lorikeet": OPTIONS}
            )
            bad = await aclient.files.create(
                file=("bad.jsonl", b'{"messages": [{"role": "user", "content": "?"}]}\n'),
                purpose="fine-tune",
            )
            refused = await jobs.create(model=DEFAULT_BASE, training_file=bad.id)
            deadline = time.monotonic() + SECONDS
            seen: set[str] = set()
            while "failed" not in seen or "running" not in seen:
                assert time.monotonic() < deadline, seen
                seen = {(await jobs.retrieve(id_)).status for id_ in (job.id, refused.id)}
                await asyncio.sleep(0.2)
            error = (await jobs.retrieve(refused.id)).error
            assert error is not None
            assert error.param == "training_file"
            assert "line 1" in error.message
            return (await jobs.cancel(job.id)).status, job.id

    with worker(e2e_home):
        status, job_id = asyncio.run(follow())
    assert status == "cancelled"
    assert client.fine_tuning.jobs.retrieve(job_id).status == "cancelled"
    assert client.fine_tuning.jobs.list().data[0].id != job_id
