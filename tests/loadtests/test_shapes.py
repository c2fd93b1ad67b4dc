"""Stages of each shape, and when a ramp has reached saturation."""

import pytest

from loadtests.shapes import SHAPES, Order, bounds, is_saturated, stage_at


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("order", [Order(16, 70, 4), Order(1, 10, 2), Order(2.5, 60, 5, False)])
def test_a_shape_takes_its_time_and_never_more_than_its_level(shape: str, order: Order) -> None:
    stages = SHAPES[shape](order)
    assert sum(stage.seconds for stage in stages) == pytest.approx(order.seconds)
    assert max(stage.level for stage in stages) == order.level
    assert all(0 < stage.level <= order.level for stage in stages)
    assert len({stage.name for stage in stages}) == len(stages)
    if order.whole:
        assert all(stage.level == int(stage.level) for stage in stages)


def test_levels_of_each_shape() -> None:
    assert [stage.level for stage in SHAPES["ramp"](Order(32, 60))] == [1, 2, 4, 8, 16, 32]
    assert [stage.level for stage in SHAPES["ramp"](Order(4, 60))] == [1, 2, 4]
    rates = [stage.level for stage in SHAPES["ramp"](Order(8, 60, whole=False))]
    assert rates == [0.25, 0.5, 1, 2, 4, 8]
    assert [stage.level for stage in SHAPES["burst"](Order(16, 70))] == [4, 16, 4, 16, 4, 16, 4]
    noisy = SHAPES["noisy"](Order(1, 30, noise=16))
    assert [(stage.level, stage.noise) for stage in noisy] == [(1, 0), (1, 16), (1, 0)]


def test_a_moment_belongs_to_one_stage() -> None:
    stages = SHAPES["noisy"](Order(1, 30, noise=16))
    assert [(begin, end) for _, begin, end in bounds(stages)] == [(0, 10), (10, 20), (20, 30)]
    assert [stage_at(stages, second) for second in (0, 9.9, 10, 29.9, 30)] == [0, 0, 1, 2, None]


@pytest.mark.parametrize(
    ("throughputs", "saturated"),
    [
        ([], False),
        ([10, 10], False),
        ([10, 20, 40, 80], False),
        ([10, 20, 20.5, 20.9], True),
        ([10, 20, 19, 22], False),
        ([0, 0, 0, 0], False),
        ([50, 100, 60, 30], True),
    ],
)
def test_saturation_is_two_steps_that_bring_nothing(
    throughputs: list[float], saturated: bool
) -> None:
    assert is_saturated(throughputs) is saturated
