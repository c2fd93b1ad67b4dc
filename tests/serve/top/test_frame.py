"""What is known at one time."""

import json
from dataclasses import replace

import pytest
from exposition import CLOCK, look, metrics
from monitored import NAME, declared

import serve.top.frame
import serve.top.traffic
from serve.top.frame import Frame, Job, Training
from serve.top.source import Residency


def test_the_server(frame: Frame) -> None:
    server = frame.server
    assert server is not None
    assert (server.base, server.version, server.ready) == ("smol", "1.2", True)
    assert server.up_seconds == 100
    assert (server.slots_used, server.slots_total) == (2, 8)
    assert (server.loaded, server.published, server.quarantined) == (4, 9, 1)
    assert server.refusals_per_second == {"queue_full": 0.5}
    whole = server.traffic
    assert (whole.running, whole.queued) == (3, 2)
    assert (whole.requests_per_second, whole.failed_per_second) == (5, 1)


def test_models_are_sorted_by_what_they_do_then_by_where_they_are(frame: Frame) -> None:
    names = [(one.model, one.state) for one in frame.models]
    assert names == [
        ("opl@1", "loaded"),
        ("smol", "base"),
        ("warm@1", "loaded"),
        ("cold@1", "cold"),
        ("bad@2", "quarantined"),
    ]
    opl, smol, warm, *_ = frame.models
    assert (opl.leases, opl.warm, opl.cold) == (3, 39, 1)
    assert (opl.traffic.running, opl.traffic.queued) == (3, 1)
    assert (opl.traffic.requests_per_second, opl.traffic.failed_per_second) == (4, 1)
    assert opl.traffic.prompt_tokens_per_second == 40
    assert opl.traffic.cached_tokens_per_second == 10
    assert opl.traffic.output_tokens_per_second == 20
    assert opl.traffic.ttft_p50_seconds == pytest.approx(0.1)
    assert opl.traffic.ttft_p95_seconds == pytest.approx(0.46)
    assert opl.traffic.itl_p50_seconds == pytest.approx(0.1)
    assert (smol.leases, smol.warm, smol.cold) == (None, None, None)
    assert (warm.warm, warm.traffic.requests_per_second) == (0, 0)
    assert warm.traffic.ttft_p50_seconds is None
    assert frame.models[-1].reason == "its output is not finite"


def test_tenants_and_training(frame: Frame) -> None:
    (acme,) = frame.tenants
    assert (acme.tenant, acme.traffic.requests_per_second) == ("acme", 2)
    assert acme.traffic.output_tokens_per_second == 10
    assert acme.traffic.prompt_tokens_per_second is None  # the server has no such metric
    assert frame.training is not None
    assert frame.training == Training(
        {"queued": 2, "running": 1}, 1, True, (Job("ftjob-1", 30, 120, 0.5, 2, 812, 3),)
    )
    assert frame.training.running[0].left_seconds == 180


def test_a_job_without_all_its_figures_has_no_time_left() -> None:
    job = Job("ftjob-1", 30, 120, float("nan"), None, None, None)
    assert job.left_seconds is None
    assert replace(job, step_seconds=float("nan")).left_seconds is None
    assert replace(job, step=121, step_seconds=1).left_seconds == 0


def test_the_first_look_knows_no_rates_and_another_server_hardly_anything() -> None:
    first = Frame.of("http://test", look(metrics(1), 1.0), None)
    assert first.server is not None
    assert first.seconds is None
    assert first.server.traffic.running == 3
    assert first.server.traffic.requests_per_second is None
    assert {one.model for one in first.models} == {"smol", "opl@1"}
    assert [one.state for one in first.models if one.model == "opl@1"] == [None]
    bare = Frame.of("http://test", look("# TYPE lorikeet_ready gauge\nlorikeet_ready 0\n", 1), None)
    assert bare.server is not None
    assert bare.server.ready is False
    assert bare.server.slots_used is None
    assert (bare.tenants, bare.training) == ((), None)


def test_a_clock_that_is_behind_gives_no_negative_age() -> None:
    behind = replace(look(metrics(1), 1.0), clock=CLOCK - 1000)
    frame = Frame.of("http://test", behind, None)
    assert frame.server is not None
    assert frame.server.up_seconds == 0


def test_a_job_table_that_is_away_is_told() -> None:
    text = metrics(1) + "# TYPE lorikeet_registry_up gauge\nlorikeet_registry_up 0\n"
    frame = Frame.of("http://test", look(text, 1.0), None)
    assert frame.training is not None
    assert not frame.training.current


def test_json_has_numbers_or_null_and_the_time_left() -> None:
    text = metrics(1).replace(
        'training_loss{training_job="ftjob-1"} 0.5', 'training_loss{training_job="ftjob-1"} NaN'
    )
    frame = Frame.of("http://test", look(text, 1.0, {"opl@1": Residency("loaded")}), None)
    told = json.loads(json.dumps(frame.as_dict(), allow_nan=False))
    (job,) = told["training"]["running"]
    assert (job["loss"], job["left_seconds"]) == (None, 180)
    assert told["models"][0]["traffic"]["requests_per_second"] is None
    assert told["time"].endswith("+00:00")


def test_every_metric_that_it_reads_is_declared_by_the_server() -> None:
    from pathlib import Path

    read = set()
    for module in (serve.top.frame, serve.top.traffic):
        read |= set(NAME.findall(Path(module.__file__).read_text()))
    ours = {name for name in read if name.startswith("lorikeet_")}
    known = {series.removesuffix("_bucket") for series in declared()}
    assert len(ours) > 30
    assert ours <= known
