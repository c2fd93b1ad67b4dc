"""Which models are asked, and what."""

import random
from collections import Counter

import pytest

from loadtests.traffic import PROMPTS, Zipf, chat_request, is_loopback


def test_popularity_falls_as_zipf_says() -> None:
    zipf = Zipf(["a", "b", "c", "d"], exponent=1.0)
    assert zipf.weights == pytest.approx((1, 1 / 2, 1 / 3, 1 / 4))
    source = random.Random(0)
    drawn = Counter(zipf.draw(source) for _ in range(25_000))
    total = sum(zipf.weights)
    for name, weight in zip(zipf.names, zipf.weights, strict=True):
        assert drawn[name] / 25_000 == pytest.approx(weight / total, abs=0.01)


def test_exponent_zero_draws_all_alike_and_a_seed_draws_again() -> None:
    zipf = Zipf(["a", "b"], exponent=0)
    first, second = random.Random(3), random.Random(3)
    drawn = [zipf.draw(first) for _ in range(1000)]
    assert drawn == [zipf.draw(second) for _ in range(1000)]
    assert drawn.count("a") == pytest.approx(500, abs=60)


@pytest.mark.parametrize(("names", "exponent"), [([], 1.0), (["a"], -0.5)])
def test_a_draw_that_cannot_be_is_refused(names: list[str], exponent: float) -> None:
    with pytest.raises(ValueError):
        Zipf(names, exponent)


def test_a_request_streams_with_usage_and_a_prompt_that_no_cache_knows() -> None:
    source = random.Random(1)
    bodies = [chat_request("opl", source, max_tokens=9) for _ in range(50)]
    assert all(
        body["stream"] and body["stream_options"] == {"include_usage": True} for body in bodies
    )
    assert {body["model"] for body in bodies} == {"opl"}
    assert {body["max_tokens"] for body in bodies} == {9}
    prompts = [body["messages"][0]["content"] for body in bodies]
    assert len({prompt[:8] for prompt in prompts}) == 50
    assert {prompt[9:] for prompt in prompts} <= set(PROMPTS)
    assert "ignore_eos" not in bodies[0]
    assert chat_request("opl", source, max_tokens=9, whole=True)["ignore_eos"] is True


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://localhost:8000/v1", True),
        ("http://[::1]:8000", True),
        ("http://0.0.0.0:8000", False),
        ("http://localhost.example.com", False),
        ("http://192.168.1.4:8000", False),
        ("not a url", False),
    ],
)
def test_only_this_machine_is_loopback(url: str, here: bool) -> None:
    assert is_loopback(url) is here
