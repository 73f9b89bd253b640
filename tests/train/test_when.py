"""When something is due is a pure question about a step number."""

from distft.train.when import EarlyStopping, When


def test_due_every_so_many_steps_and_at_the_last() -> None:
    assert [step for step in range(1, 11) if When(4, 10).due(step)] == [4, 8, 10]
    assert [step for step in range(1, 11) if When(None, 10).due(step)] == [10]
    assert [step for step in range(1, 11) if When(4, 10, at_last=False).due(step)] == [4, 8]


def test_early_stopping_waits_for_patience_evaluations_without_a_better_one() -> None:
    stopping = EarlyStopping(patience=2, min_delta=0.1)
    assert [stopping.stop(loss) for loss in (3.0, 2.0, 1.95, 2.5)] == [False, False, False, True]


def test_a_better_loss_starts_the_wait_anew() -> None:
    stopping = EarlyStopping(patience=2)
    assert [stopping.stop(loss) for loss in (3.0, 3.1, 2.9, 3.0, 3.0)] == [False, False, False, False, True]


def test_no_patience_never_stops() -> None:
    stopping = EarlyStopping(patience=None)
    assert not any(stopping.stop(1.0) for _ in range(100))
