"""Rows become tensors with exactly their tokens, targets and document borders."""

from pathlib import Path

import numpy as np
import torch

from distft.data.batches import collate, pack, unpack
from distft.data.shards import Row, Rows, ShardWriter


def rows_of(folder: Path, *rows: tuple[list[int], list[bool]]) -> Rows:
    writer = ShardWriter(folder, "train")
    for i, (ids, trained) in enumerate(rows):
        writer.add(Row(np.asarray(ids, np.int32), np.asarray(trained)), str(i))
    writer.close()
    return Rows(folder, "train")


def test_a_target_is_predicted_from_the_token_before_it(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, ([5, 6, 7], [False, True, True]), ([8, 9], [False, True]))
    batch = collate(rows, np.asarray([0, 1]))
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1]] and batch.lengths == (3, 2)
    assert batch.positions.tolist() == [0, 1, 3]
    assert batch.targets.tolist() == [6, 7, 9]


def test_the_first_token_of_a_row_is_not_a_target(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, ([5, 6], [True, True]), ([7, 8], [True, False]))
    batch = collate(rows, np.asarray([0, 1]))
    assert batch.targets.tolist() == [6]
    assert rows.num_targets.sum() == len(batch.targets)


def test_a_token_is_trained_by_its_place_never_by_its_id(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, ([3, 0, 0], [False, True, True]), ([4], [False]))
    assert collate(rows, np.asarray([0, 1])).targets.tolist() == [0, 0]


def test_without_rows_a_batch_has_one_token_and_no_target(tmp_path: Path) -> None:
    batch = collate(rows_of(tmp_path, ([1, 2], [False, True])), np.asarray([], dtype=int))
    assert batch.input_ids.shape == (1, 1) and batch.lengths == (1,)
    assert len(batch.targets) == 0 and batch.positions.dtype == torch.int64


def test_padding_to_whole_tiles_is_a_separate_document(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, ([5, 6, 7], [False, True, True]), ([8, 9], [False, True]))
    batch, short = collate(rows, np.asarray([0, 1]), multiple_of=8), collate(rows, np.asarray([0, 1]))
    assert batch.input_ids.shape == (1, 8) and batch.lengths == (3, 2, 3)
    assert batch.position_ids[0, 5:].tolist() == [0, 1, 2]
    assert torch.equal(batch.positions, short.positions) and torch.equal(batch.targets, short.targets)


def test_document_borders_have_the_format_of_the_kernels(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, ([5, 6, 7], [False, True, True]), ([8, 9], [False, True]))
    given = collate(rows, np.asarray([0, 1])).inputs()
    assert given["cu_seq_lens_q"].tolist() == [0, 3, 5] and given["cu_seq_lens_q"].dtype == torch.int32
    assert (given["max_length_q"], given["document_lengths"]) == (3, (3, 2))


def test_a_batch_is_moved_as_one_buffer_unchanged(tmp_path: Path) -> None:
    """Of odd sizes, and one without targets; whatever a buffer begins with, its parts are aligned for their dtype."""
    rows = rows_of(tmp_path, ([5, 6, 7], [False, True, True]), ([8], [False]), ([1, 2, 3, 4, 5], [True] * 5))
    batches = [collate(rows, np.asarray(picked)) for picked in ([0, 1], [1], [2, 0])]
    buffer = pack(batches, pin=False)
    assert buffer.dtype == torch.uint8
    for mine, expected in zip(unpack(buffer.clone(), batches), batches, strict=True):
        assert (mine.lengths, mine.cost) == (expected.lengths, expected.cost)
        for name, tensor in expected.tensors.items():
            assert mine.tensors[name].dtype == tensor.dtype and torch.equal(mine.tensors[name], tensor), name


def test_document_borders_are_built_with_the_batch(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, ([5, 6, 7], [True] * 3), ([8, 9], [True] * 2))
    inputs = collate(rows, np.asarray([0, 1])).inputs()
    assert inputs["cu_seq_lens_q"].tolist() == [0, 3, 5] and inputs["cu_seq_lens_q"].dtype == torch.int32
    assert inputs["cu_seq_lens_q"] is inputs["cu_seq_lens_k"]


def test_a_batch_is_padded_by_short_documents_without_targets(tmp_path: Path) -> None:
    """Attention would cost the square of one long one."""
    rows = rows_of(tmp_path, ([5, 6, 7], [True] * 3))
    batch = collate(rows, np.asarray([0]), multiple_of=512)
    assert batch.input_ids.shape == (1, 512) and batch.lengths == (3, 128, 128, 128, 125)
    assert batch.targets.tolist() == [6, 7]
