"""The tally of a run: sums over all of it, the accuracy of the last step alone."""

from types import SimpleNamespace

from train.runs.checkpoints import Progress
from train.runs.recorder import Tally

ALONE = SimpleNamespace(num_processes=1)


def test_the_accuracy_is_that_of_all_batches_of_the_last_step() -> None:
    tally = Tally.after(Progress(step=4, tokens=100, trained_tokens=10, seconds=2.0))
    tally.add(20, 4, 1)
    tally.add(20, 2, 2)
    tally.total(ALONE)
    assert (tally.tokens, tally.trained_tokens, tally.accuracy) == (140, 16, 0.5)
    tally.add(20, 4, 4)
    tally.total(ALONE)
    assert (tally.tokens, tally.trained_tokens, tally.accuracy) == (160, 20, 1.0)
    tally.total(ALONE)  # no trained token at all
    assert tally.accuracy == 0.0
