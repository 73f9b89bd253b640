"""Any flat range of any stored tensor can be read; a damaged file is named.

Bytes are split at their destination: a device converts what it keeps, and what the host keeps is not sent.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from distft.runtime.process_group import World
from distft.strategies.engine import Piece
from distft.tensors import streaming as module
from distft.tensors.regions import Flat
from distft.tensors.safetensors import read_header, tensors_of
from distft.tensors.streaming import folder_chunks, stream
from tests.support.alone import alone


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_range_read_equals_the_slice_of_the_tensor(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.randn(7, 5).to(dtype)
    file = tmp_path / "model.safetensors"
    save_file({"a": tensor, "b": torch.ones(3)}, file)
    read = tensors_of(file, read_header(file))["a"].read(4, 20)
    assert read.dtype == torch.float32 and torch.equal(read, tensor.float().view(-1)[4:24])


def test_files_stream_into_shards_in_many_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Odd sizes and mixed dtypes, so that tensors lie across blocks and at odd bytes."""
    monkeypatch.setattr("distft.tensors.streaming.BLOCK", 64)
    tensors = {"a": torch.randn(7, 5).half(), "b": torch.randn(33), "c": torch.randn(3, 3, 3, dtype=torch.float64)}
    save_file({"a": tensors["a"], "b": tensors["b"]}, tmp_path / "model-1.safetensors")
    save_file({"c": tensors["c"]}, tmp_path / "model-2.safetensors")
    pieces = [
        Piece(name, tuple(tensor.shape), Flat(start, tensor.numel() - start - 1), torch.zeros(tensor.numel()), start)
        for name, tensor in tensors.items()
        for start in (0, 4)
    ]
    with alone() as world:
        stream(folder_chunks(tmp_path, world), pieces, world)
    for piece in pieces:
        at = slice(piece.region.start, piece.region.start + piece.region.count)
        assert torch.equal(piece.data(), tensors[piece.name].reshape(-1)[at].float())


def test_a_wrong_model_is_reported_by_name_and_shape(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2, 3)}, tmp_path / "model.safetensors")
    missing = Piece("b", (2, 3), Flat(0, 6), torch.zeros(6))
    turned = Piece("a", (3, 2), Flat(0, 6), torch.zeros(6))
    with alone() as world:
        chunks = folder_chunks(tmp_path, world)
        with pytest.raises(RuntimeError, match="has no parameter b"):
            stream(chunks, [missing], world)
        with pytest.raises(RuntimeError, match=r"parameter a is \[2, 3\], the model wants \[3, 2\]"):
            stream(chunks, [turned], world)


def test_a_cut_off_file_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.ones(100)}, tmp_path / "model.safetensors")
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with alone() as world, pytest.raises(RuntimeError, match="model.safetensors is cut off"):
        folder_chunks(tmp_path, world)


def test_a_file_that_is_not_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    with alone() as world, pytest.raises(RuntimeError, match="damaged"):
        folder_chunks(tmp_path, world)


CUDA = torch.device("cuda", 1)


def part(count: int, device: str) -> Any:
    return SimpleNamespace(region=Flat(0, count), data=lambda: SimpleNamespace(device=torch.device(device)))


@pytest.mark.parametrize(
    ("parts", "home"),
    [
        ([("cuda:1", 100)], "cuda:1"),
        ([("cuda:1", 100), ("cpu", 1)], "cuda:1"),  # a state that is one number
        ([("cpu", 100), ("cuda:1", 10)], "cpu"),  # offload
        ([], "cpu"),
    ],
)
def test_a_block_is_split_if_most_of_it_is_kept(parts: list[tuple[str, int]], home: str) -> None:
    world = World(1, 2, 1, 2, CUDA)
    assert module._staging_device([part(count, device) for device, count in parts], world) == torch.device(home)
