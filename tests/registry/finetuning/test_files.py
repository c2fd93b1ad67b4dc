"""Files: kept once by content, seen by their tenant alone, deleted when nobody needs them."""

import errno
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fine_tuning import ROW, MakeJob, SendFile

from registry import DiskFull, Registry
from registry.errors import JobConflict, QuotaReached, UnknownFile
from registry.finetuning.objects import RESULTS

pytestmark = pytest.mark.usefixtures("database_url")


def blobs(registry: Registry) -> list[Path]:
    return sorted(registry.settings.files.glob("??/*"))


def test_a_file_is_kept_and_given_back(registry: Registry, send_file: SendFile) -> None:
    file = send_file("acme", filename="rows.jsonl")
    assert registry.files.get("acme", file.id) == file
    assert registry.files.path(file).read_bytes() == ROW
    assert registry.files.path(file).suffix == ".jsonl"
    assert file.as_dict() == {
        "id": file.id,
        "object": "file",
        "bytes": len(ROW),
        "created_at": int(file.created_at.timestamp()),
        "expires_at": None,
        "filename": "rows.jsonl",
        "purpose": "fine-tune",
        "status": "processed",
        "status_details": None,
    }
    assert list(registry.settings.staging.iterdir()) == []


def test_what_is_not_added_is_gone(registry: Registry) -> None:
    with registry.files.receiving() as incoming:
        incoming.write(b"half a fi")
    assert list(registry.settings.staging.iterdir()) == []
    assert registry.files.list(None).data == []


def test_one_content_is_one_blob_and_two_files(registry: Registry, send_file: SendFile) -> None:
    mine, other = send_file("acme"), send_file("globex")
    assert mine.id != other.id
    assert len(blobs(registry)) == 1
    registry.files.delete("acme", mine.id)
    assert registry.files.path(other).read_bytes() == ROW
    registry.files.delete("globex", other.id)
    assert blobs(registry) == []


def test_metrics_and_rows_of_one_content_do_not_share_a_blob(
    registry: Registry, send_file: SendFile
) -> None:
    rows, metrics = send_file(), send_file(purpose=RESULTS, filename="metrics.csv")
    assert registry.files.path(metrics).suffix == ".csv"
    registry.files.delete("acme", rows.id)
    assert registry.files.path(metrics).read_bytes() == ROW


def test_files_of_another_tenant_are_unknown(registry: Registry, send_file: SendFile) -> None:
    file = send_file("acme")
    for call in (registry.files.get, registry.files.delete):
        with pytest.raises(UnknownFile):
            call("globex", file.id)
    assert registry.files.list("globex").data == []
    with pytest.raises(UnknownFile):
        registry.files.list("globex", after=file.id)
    assert registry.files.get(None, file.id) == file


def test_a_deleted_file_is_unknown(registry: Registry, send_file: SendFile) -> None:
    file = send_file()
    registry.files.delete("acme", file.id)
    for call in (registry.files.get, registry.files.delete):
        with pytest.raises(UnknownFile):
            call("acme", file.id)


def test_lists_page_in_both_orders(registry: Registry, send_file: SendFile) -> None:
    sent = [send_file(content=b"%d" % n).id for n in range(5)]
    send_file(purpose=RESULTS, filename="m.csv")
    for order, expected in (("asc", sent), ("desc", sent[::-1])):
        seen: list[str] = []
        after = None
        while True:
            page = registry.files.list(
                "acme", after=after, limit=2, order=order, purpose="fine-tune"
            )
            seen += [file.id for file in page.data]
            if not page.has_more:
                break
            after = seen[-1]
        assert seen == expected


def test_a_file_sent_again_is_the_same_file(registry: Registry, send_file: SendFile) -> None:
    first = send_file()
    assert send_file(retry=True) == first
    assert send_file(retry=False) != first
    assert send_file(retry=True, content=b"other") != first
    assert send_file("globex", retry=True).tenant == "globex"
    registry.files.delete("acme", first.id)
    assert send_file(retry=True).id != first.id


def test_a_tenant_has_so_many_bytes(registry: Registry, send_file: SendFile) -> None:
    file = send_file(content=b"x" * 60, most_bytes=100)
    with pytest.raises(QuotaReached) as caught:
        send_file(content=b"y" * 41, most_bytes=100)
    assert "Delete files" in (caught.value.remedy or "")
    send_file("globex", content=b"y" * 41, most_bytes=100)
    registry.files.delete("acme", file.id)
    send_file(content=b"y" * 41, most_bytes=100)


def test_a_file_that_a_job_needs_stays(
    registry: Registry, send_file: SendFile, make_job: MakeJob
) -> None:
    training, validation = send_file(), send_file(content=ROW * 2)
    job = make_job(training_file=training.id, validation_file=validation.id)
    for file in (training, validation):
        with pytest.raises(JobConflict, match=job.id):
            registry.files.delete("acme", file.id)
    registry.jobs.cancel("acme", job.id)
    registry.files.delete("acme", training.id)
    registry.files.delete("acme", validation.id)


def test_a_full_disk_keeps_nothing(
    registry: Registry, send_file: SendFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("registry.finetuning.files.sync_file", full)
    with pytest.raises(DiskFull):
        send_file()
    monkeypatch.undo()
    assert registry.files.list(None).data == []
    assert blobs(registry) == []
    assert list(registry.settings.staging.iterdir()) == []
    send_file()


def test_blobs_without_a_row_are_swept(registry: Registry, send_file: SendFile) -> None:
    file = send_file()
    orphan = registry.settings.files / "ab" / ("ab" + "0" * 62 + ".jsonl")
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"killed before its row was written")
    assert registry.files.sweep() == 0  # it is young: somebody may be about to write the row
    assert registry.files.sweep(older_than=-1) == 1
    assert blobs(registry) == [registry.files.path(file)]


def test_sending_and_deleting_one_content_at_once_loses_nothing(
    registry: Registry, send_file: SendFile
) -> None:
    start = threading.Barrier(4)

    def churn(_: int) -> Any:
        start.wait()
        for _ in range(5):
            registry.files.delete("acme", send_file().id)
        return send_file()

    with ThreadPoolExecutor(4) as pool:
        kept = list(pool.map(churn, range(4)))
    for file in kept:
        assert registry.files.path(file).read_bytes() == ROW
