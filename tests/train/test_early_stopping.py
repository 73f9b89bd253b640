"""What is due is a function of the step number, and early stopping of the losses."""

import pytest

from distft.tasks.selection import Selection
from distft.train.early_stopping import EarlyStopping, When


def test_due_at_the_interval_and_at_the_last_step() -> None:
    assert [step for step in range(1, 11) if When(4, 10).due(step)] == [4, 8, 10]
    assert [step for step in range(1, 11) if When(None, 10).due(step)] == [10]
    assert [step for step in range(1, 11) if When(4, 10, at_last=False).due(step)] == [4, 8]


def test_early_stopping_waits_for_patience_evaluations() -> None:
    stopping = EarlyStopping(patience=2, min_delta=0.1)
    assert [stopping.stop({"loss": loss}) for loss in (3.0, 2.0, 1.95, 2.5)] == [False, False, False, True]


def test_a_better_loss_resets_the_patience() -> None:
    stopping = EarlyStopping(patience=2)
    assert [stopping.stop({"loss": loss}) for loss in (3.0, 3.1, 2.9, 3.0, 3.0)] == [False, False, False, False, True]


def test_small_gains_add_up_to_an_improvement() -> None:
    """As in Keras and Lightning: against the last loss that counted, not the lowest."""
    stopping = EarlyStopping(patience=2, min_delta=0.1)
    assert [stopping.stop({"loss": loss}) for loss in (3.0, 2.94, 2.88, 2.82, 2.76)] == [False] * 5


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf")])
def test_a_non_finite_loss_is_not_an_improvement(odd: float) -> None:
    stopping = EarlyStopping(patience=2)
    assert [stopping.stop({"loss": loss}) for loss in (odd, 3.0, odd, 2.9, odd, 2.95)] == [False] * 5 + [True]
    assert stopping.best == 2.9


def test_a_resumed_run_keeps_its_patience_count() -> None:
    losses = [3.0, 3.1, 2.9, 3.0, 3.0, 2.0]
    whole = EarlyStopping(patience=2)
    ends = [whole.stop({"loss": loss}) for loss in losses]
    for cut in range(len(losses)):
        resumed = EarlyStopping(patience=2)
        resumed.recall({"loss": loss} for loss in losses[:cut])
        assert [resumed.stop({"loss": loss}) for loss in losses[cut:]] == ends[cut:]


def test_no_patience_never_stops() -> None:
    stopping = EarlyStopping(patience=None)
    assert not any(stopping.stop({"loss": 1.0}) for _ in range(100))


def test_a_metric_to_maximize_stops_when_it_no_longer_rises() -> None:
    stopping = EarlyStopping(patience=2, min_delta=0.02, selection=Selection("accuracy", "maximize"))
    values = (0.5, 0.55, 0.56, 0.53, 0.9)
    assert [stopping.stop({"loss": 1.0, "accuracy": value}) for value in values] == [False, False, False, True, False]
    assert stopping.best == 0.9
