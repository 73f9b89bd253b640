"""A run that waits for its rows is told once, with what helps."""

from typing import Any

from distft.train.health import WAIT_STEPS, DataWait, MemoryPressure


def row(waited: float, seconds: float = 1.0) -> dict[str, Any]:
    return {"seconds": seconds, "phases": {"data": waited, "forward": seconds - waited}}


def test_more_than_a_twentieth_of_fifty_steps_is_told_once_and_again_after_it_was_less():
    wait = DataWait()
    told = [bool(wait.of(row(0.06))) for _ in range(3 * WAIT_STEPS)]
    assert told.index(True) == WAIT_STEPS - 1 and sum(told) == 1
    assert not any(wait.of(row(0.0)) for _ in range(WAIT_STEPS))
    [text] = [each for _ in range(WAIT_STEPS) for each in wait.of(row(0.2))]
    assert "of the last 50 steps waited for rows. Try: launcher.stage=node_local" in text


def test_less_is_not_told_nor_one_long_wait_among_short_ones():
    wait = DataWait()
    assert not any(wait.of(row(0.049)) for _ in range(4 * WAIT_STEPS))
    assert not any(wait.of(row(0.9 if step == 70 else 0.0)) for step in range(4 * WAIT_STEPS))


def test_seconds_count_and_not_steps():
    """Many short steps that wait beside a few long ones that do not."""
    wait = DataWait()
    assert not any(wait.of(row(0.5, 1.0) if step % 10 else row(0.0, 200.0)) for step in range(4 * WAIT_STEPS))


def test_a_step_without_a_measured_wait_counts_as_none():
    wait = DataWait()
    assert not any(wait.of({"seconds": 1.0, "phases": {}}) for _ in range(2 * WAIT_STEPS))


def test_a_run_short_of_memory_is_warned_first_and_when_it_has_doubled() -> None:
    pressure = MemoryPressure()
    counts = [0, 0, 1, 1, 2, 3, 4, 4]
    warned = [bool(pressure.of({"allocator_retries": count})) for count in counts]
    assert warned == [False, False, True, False, True, False, True, False]
    assert pressure.of({}) == [], "a CPU has no such count"
