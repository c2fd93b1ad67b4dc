"""What a request takes is measured from its arrival, by clocks that only go forward."""

from serve.engine import GenerationStats
from serve.request_meter import RequestMeter
from serve.top_labels import UNKNOWN


class Clock:
    """Seconds, set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def stats(**fields: object) -> GenerationStats:
    figures = {
        "model": "m",
        "prompt_tokens": 10,
        "cached_tokens": 4,
        "output_tokens": 3,
        "queue_seconds": 0.5,
        "ttft_seconds": 2.0,
        "finish_reason": "stop",
    }
    return GenerationStats(**{**figures, **fields})  # type: ignore[arg-type]


def test_every_step_has_its_seconds() -> None:
    clock = Clock()
    meter = RequestMeter("chat", clock)
    meter.model, meter.stream = "opl@1", True
    clock.now += 1
    with meter.admission.running():
        clock.now += 2
    with meter.loading.running():
        clock.now += 4
    meter.hand_over()
    clock.now += 8
    meter.generated(stats())
    meter.generated(stats(choice=1, queue_seconds=0.75, ttft_seconds=1.5, finish_reason="length"))
    finished = meter.finish(200, "acme")
    assert (finished.model, finished.tenant, finished.stream) == ("opl@1", "acme", True)
    assert finished.seconds == 15
    assert finished.admission_seconds == 2
    assert finished.queue_seconds == 2.75
    assert finished.load_seconds == 4
    assert finished.engine_seconds == 8
    assert finished.ttft_seconds == 7 + 1.5
    assert (finished.prompt_tokens, finished.cached_tokens) == (10, 4)  # paid for once
    assert finished.output_tokens == 6
    assert finished.finish_reasons == ("stop", "length")


def test_a_wait_that_was_broken_off_counts_until_the_end() -> None:
    clock = Clock()
    meter = RequestMeter("completions", clock)
    try:
        with meter.admission.running():
            clock.now += 3
            raise TimeoutError
    except TimeoutError:
        clock.now += 1
    finished = meter.finish(503, "acme")
    assert (finished.admission_seconds, finished.seconds) == (3, 4)
    assert finished.engine_seconds is finished.ttft_seconds is None
    assert finished.model == UNKNOWN


def test_the_status_of_a_stream_is_what_became_of_it() -> None:
    meter = RequestMeter("chat")
    meter.status = 499
    assert meter.finish(200, "acme").status == 499


def test_nobody_waits_for_the_first_token_of_a_score() -> None:
    meter = RequestMeter("score")
    meter.hand_over()
    meter.generated(stats())
    assert meter.finish(200, "acme").ttft_seconds is None


def test_a_clock_that_steps_back_gives_nothing_negative() -> None:
    clock = Clock()
    meter = RequestMeter("chat", clock)
    with meter.admission.running():
        clock.now -= 500
    meter.hand_over()
    clock.now -= 500
    meter.generated(stats(ttft_seconds=-3.0))
    finished = meter.finish(200, "acme")
    assert finished.admission_seconds == finished.engine_seconds == finished.seconds == 0
    assert finished.ttft_seconds == 0
