"""Which rows a step reads is a pure function of seed, data and step number."""

import hashlib
import tracemalloc
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distft.data import order as steps_module
from distft.data.order import Base, Order, row_borders, step_borders, token_borders
from distft.runtime.determinism import splitmix64


@pytest.mark.slow
@given(st.integers(1, 30), st.integers(0, 5), st.integers(1, 4))
def test_each_epoch_holds_every_row_once(num_rows: int, seed: int, epochs: int) -> None:
    rows = Order(num_rows, seed).rows(0, epochs * num_rows)
    for epoch in range(epochs):
        assert sorted(rows[epoch * num_rows : (epoch + 1) * num_rows]) == list(range(num_rows))


@pytest.mark.slow
@given(st.integers(1, 30), st.data())
def test_any_cut_of_the_order_reads_the_same_rows(num_rows: int, data: st.DataObject) -> None:
    order, end = Order(num_rows, 3), data.draw(st.integers(2, 90))
    middle = data.draw(st.integers(1, end - 1))
    parts = [order.rows(0, middle), order.rows(middle, end)]
    assert np.array_equal(np.concatenate(parts), order.rows(0, end))


def test_epochs_and_seeds_differ_in_order() -> None:
    first, second = Order(50, 0).rows(0, 50), Order(50, 0).rows(50, 100)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, Order(50, 1).rows(0, 50))


def test_the_order_of_rows_is_fixed() -> None:
    """The bits of both versions: what a run has read must not depend on a library's version."""
    assert Order(10, 0).rows(0, 20).tolist() == [6, 5, 9, 3, 2, 1, 8, 4, 0, 7, 8, 7, 3, 4, 6, 1, 5, 0, 2, 9]
    assert Order(7, 3).rows(5, 16).tolist() == [4, 3, 4, 0, 6, 1, 2, 3, 5, 4, 0]
    many = Order(100_003, 5).rows(0, 100_003)
    assert (
        many.dtype == np.int64 and hashlib.sha256(many.astype("<i8").tobytes()).hexdigest()[:16] == "4ade87b7bb143b1f"
    )
    assert Order(10, 0, version=1).rows(0, 10).tolist() == [5, 4, 3, 7, 2, 1, 9, 8, 6, 0]


def test_splitmix64_matches_the_published_values() -> None:
    counters = np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1234567)
    assert splitmix64(counters).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_permutations_are_uniform() -> None:
    counts = Counter(tuple(Order(4, seed).rows(0, 4)) for seed in range(2400))
    assert len(counts) == 24 and sum((count - 100) ** 2 / 100 for count in counts.values()) < 50, "chi squared, 23"


def test_the_memory_of_a_step_is_that_of_its_rows() -> None:
    order = Order(10**6, 0)
    order.rows(0, 8)
    tracemalloc.start()
    order.rows(400_000, 400_512)
    assert tracemalloc.get_traced_memory()[1] < 50_000, "the whole order has 4,000,000 bytes"
    tracemalloc.stop()


def test_steps_straddle_epochs_and_the_last_may_be_short() -> None:
    assert row_borders(10, 4).tolist() == [0, 4, 8, 10]
    borders = step_borders(Order(7, 0), np.ones(7), epochs=2, max_steps=None, batch_rows=4, batch_tokens=None)
    assert borders.tolist() == [0, 4, 8, 12, 14]


def test_the_first_end_reached_ends_the_run() -> None:
    order, ones = Order(10, 0), np.ones(10)
    by_steps = step_borders(order, ones, epochs=3, max_steps=2, batch_rows=4, batch_tokens=None)
    by_epochs = step_borders(order, ones, epochs=1, max_steps=99, batch_rows=4, batch_tokens=None)
    steps_alone = step_borders(order, ones, epochs=None, max_steps=5, batch_rows=4, batch_tokens=None)
    assert (len(by_steps), len(by_epochs), len(steps_alone)) == (3, 4, 6)


@pytest.mark.slow
@given(st.integers(0, 20), st.integers(1, 12), st.integers(9, 60))
def test_token_steps_are_full_if_only_max_steps_ends_the_run(row: int, steps: int, batch_tokens: int) -> None:
    order, lengths = Order(7, 0), np.arange(1, 8)
    sizes = {"batch_rows": None, "batch_tokens": batch_tokens}
    borders = step_borders(order, lengths, epochs=None, max_steps=3 + steps, base=Base(3, row), **sizes)
    longer = row + token_borders(lengths[order.rows(row, 99 * 7)], batch_tokens)
    assert len(borders) == steps + 1 and borders.tolist() == longer[: steps + 1].tolist()


@pytest.mark.parametrize("epochs", [None, 5000])
def test_rows_that_no_step_reads_are_not_ordered(epochs: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 steps of 262,144 tokens took 30 s and 8 GiB, a position for every token."""
    made, permutation = [], steps_module._permutation
    monkeypatch.setattr(steps_module, "_permutation", lambda *which: made.append(which) or permutation(*which))
    lengths = np.full(100, 50)
    sizes = {"batch_rows": None, "batch_tokens": 10_000}
    borders = step_borders(Order(100, 0), lengths, epochs=epochs, max_steps=20, **sizes)
    assert borders.tolist() == list(range(0, 4001, 200))
    assert len(made) <= 42, "40 epochs are read"


@pytest.mark.slow
@given(st.integers(0, 14), st.integers(1, 5), st.integers(9, 20))
def test_steps_after_a_base_read_the_rest_once(row: int, batch_rows: int, batch_tokens: int) -> None:
    order, lengths = Order(7, 0), np.arange(1, 8)
    for sizes in ({"batch_rows": batch_rows, "batch_tokens": None}, {"batch_rows": None, "batch_tokens": batch_tokens}):
        borders = step_borders(order, lengths, epochs=2, max_steps=None, base=Base(3, row), **sizes)
        assert borders[0] == row and borders[-1] == 14 and (np.diff(borders) > 0).all()
        assert len(step_borders(order, lengths, epochs=2, max_steps=4, base=Base(3, row), **sizes)) <= 2
        assert len(step_borders(order, lengths, epochs=2, max_steps=3, base=Base(3, row), **sizes)) == 1


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(9, 30))
def test_a_token_step_takes_all_rows_in_order_that_fit(lengths: list[int], budget: int) -> None:
    array = np.asarray(lengths)
    borders = token_borders(array, budget)
    assert borders[0] == 0 and borders[-1] == len(lengths)
    for start, stop in pairwise(borders):
        assert 0 < array[start:stop].sum() <= budget
        assert stop == len(lengths) or array[start : stop + 1].sum() > budget


def test_a_row_longer_than_a_step_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"train.global_batch_tokens=8 .* longest row, 9 tokens. Try: train.global_batch_tokens=9"
    ):
        token_borders(np.asarray([3, 9]), 8)
