"""The share of an answer that the training rows contain verbatim is exact, over shards, chunks and row borders."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distft.data.shards import Row, Rows, ShardWriter
from distft.generate import memorization
from distft.generate.memorization import NGRAM, verbatim_shares
from tests.support.alone import alone


def write(folder: Path, rows: list[list[int]], shard_bytes: int) -> Rows:
    writer = ShardWriter(folder, "train", shard_bytes)
    for i, ids in enumerate(rows):
        writer.add(Row(np.array(ids, np.int32), np.ones(len(ids), bool)), str(i))
    writer.close()
    return Rows(folder, "train")


def by_hand(text: list[int], rows: list[list[int]]) -> float | None:
    windows = [text[i : i + NGRAM] for i in range(len(text) - NGRAM + 1)]
    hits = [any(row[i : i + NGRAM] == window for row in rows for i in range(len(row))) for window in windows]
    return sum(hits) / len(hits) if hits else None


@pytest.mark.parametrize(("shard_bytes", "chunk"), [(10**6, 2**20), (400, 2**20), (10**6, 16), (400, 7)])
def test_shares_are_those_of_a_search_by_hand(shard_bytes: int, chunk: int, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(memorization, "_CHUNK", chunk)
    chance = np.random.default_rng(0)
    rows = [chance.integers(0, 3, chance.integers(1, 60)).tolist() for _ in range(40)]
    long = max(rows, key=len)
    copied = [long[:20], rows[-1][-12:], rows[0] + rows[1], [*long[2:12], 9, *long[12:30]]]
    texts = [*copied, chance.integers(0, 3, 40).tolist(), chance.integers(5, 9, 40).tolist(), [1, 2, 3], []]
    with alone() as world:
        found = verbatim_shares(texts, write(tmp_path, rows, shard_bytes), world)
    assert found == [by_hand(text, rows) for text in texts]
    assert found[0] == 1.0 and found[5] == 0.0 and found[6] is None and 0 < (found[3] or 0) < 1


def test_an_ngram_over_a_border_of_rows_does_not_count(tmp_path: Path) -> None:
    rows = [list(range(10)), list(range(10, 20))]
    with alone() as world:
        assert verbatim_shares([list(range(6, 14))], write(tmp_path, rows, 10**6), world) == [0.0]
