from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distft.data.shards import Row, Rows, ShardWriter

a_row = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans()), min_size=1, max_size=40).map(
    lambda pairs: Row(np.array([i for i, _ in pairs], np.int32), np.array([t for _, t in pairs], bool))
)


def write(folder: Path, rows: list[Row], shard_bytes: int = 100) -> list[str]:
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.arrow"):
        old.unlink()
    writer = ShardWriter(folder, "train", shard_bytes)
    for number, row in enumerate(rows):
        writer.add(row, f"id{number}")
    writer.close()
    return writer.files


@pytest.mark.slow
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(a_row, max_size=30))
def test_rows_round_trip_over_any_number_of_shards(tmp_path: Path, rows: list[Row]):
    write(tmp_path / "data", rows)
    back = Rows(tmp_path / "data", "train")
    assert len(back) == len(rows)
    for row, other in zip(rows, back, strict=True):
        assert other.input_ids.tolist() == row.input_ids.tolist()
        assert other.trained.tolist() == row.trained.tolist()
    assert back.lengths.tolist() == [len(row.input_ids) for row in rows]
    assert back.num_targets.tolist() == [int(row.trained[1:].sum()) for row in rows]
    assert back.ids == [f"id{number}" for number in range(len(rows))]


def twenty(folder: Path) -> list[str]:
    return write(folder, [Row(np.full(10, i, np.int32), np.ones(10, bool)) for i in range(20)])


def test_shards_can_be_selected(tmp_path: Path):
    assert len(twenty(tmp_path)) == 7
    assert [row.input_ids[0] for row in Rows(tmp_path, "train", [6, 1])] == [18, 19, 3, 4, 5]
    assert Rows(tmp_path, "train", [1]).lengths.tolist() == [10, 10, 10]


def test_a_missing_shard_is_refused(tmp_path: Path):
    twenty(tmp_path)
    with pytest.raises(ValueError, match=r"data\.shards=\[7\]: there is no shard 7, only 0 to 6"):
        Rows(tmp_path, "train", [7])


@pytest.mark.parametrize("index", [-1, 20])
def test_a_row_beyond_the_end_raises(tmp_path: Path, index: int):
    twenty(tmp_path)
    with pytest.raises(IndexError):
        Rows(tmp_path, "train")[index]


def test_reading_does_not_copy_the_file(tmp_path: Path):
    twenty(tmp_path)
    assert not Rows(tmp_path, "train")[3].input_ids.flags.owndata


def test_a_split_without_rows_is_empty(tmp_path: Path):
    assert len(Rows(tmp_path, "eval")) == 0
    assert Rows(tmp_path, "eval").lengths.tolist() == []


def test_weights_are_kept_where_a_row_has_them(tmp_path: Path) -> None:
    ids, trained = np.arange(5, dtype=np.int32), np.array([1, 0, 1, 1, 0], dtype=bool)
    weights = np.array([0.25, 0, 2, 0.5, 0], dtype=np.float32)
    writer = ShardWriter(tmp_path, "train")
    for row in (Row(ids, trained), Row(ids, trained, weights), Row(ids[:2], trained[:2])):
        writer.add(row, "x")
    writer.close()
    back = Rows(tmp_path, "train")
    assert [None if row.weights is None else row.weights.tolist() for row in back] == [None, weights.tolist(), None]
    assert back.target_weight.tolist() == [2.0, 2.5, 0.0]  # the first token of a row is no target
    assert back.num_targets.tolist() == [2, 2, 0]
