"""A run whose settings changed reads on where the last step ended, or new data from its beginning."""

from typing import Any

import pytest

from distft.data.order import Base, base_of

READS = {"data": "d", "shards": None, "seed": 0, "batch_rows": 4, "batch_tokens": None}
MANIFEST: dict[str, Any] = {"step": 20, "base_step": 5, "base_row": 10, "next_row": 70, "reads": READS}


def test_a_run_without_a_checkpoint_starts_at_its_first_row() -> None:
    assert base_of(None, READS) == Base(0, 0)


def test_the_same_settings_keep_their_base() -> None:
    assert base_of(MANIFEST, dict(READS)) == Base(5, 10)


@pytest.mark.parametrize("change", [{"batch_rows": 8}, {"batch_rows": None, "batch_tokens": 512}], ids=str)
def test_other_steps_over_the_same_order_go_on_at_the_next_row(change: dict[str, Any]) -> None:
    assert base_of(MANIFEST, READS | change) == Base(20, 70)


@pytest.mark.parametrize("change", [{"data": "e"}, {"shards": [1]}, {"seed": 1}], ids=str)
def test_another_order_is_read_from_its_beginning(change: dict[str, Any]) -> None:
    assert base_of(MANIFEST, READS | change) == Base(20, 0)
