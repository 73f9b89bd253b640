"""Any flat range of any stored tensor can be read; a damaged file is named."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from distft.models.safetensors_dir import SafetensorsDir


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_range_is_what_the_tensor_holds_there(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.randn(7, 5).to(dtype)
    save_file({"a": tensor, "b": torch.ones(3)}, tmp_path / "model.safetensors")
    read = SafetensorsDir(tmp_path).read("a", (7, 5), 4, 20)
    assert read.dtype == torch.float32 and torch.equal(read, tensor.float().view(-1)[4:24])


def test_the_wrong_model_is_told_by_name_and_shape(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2, 3)}, tmp_path / "model.safetensors")
    source = SafetensorsDir(tmp_path)
    with pytest.raises(RuntimeError, match="has no tensor b"):
        source.read("b", (2, 3), 0, 6)
    with pytest.raises(RuntimeError, match=r"a is \[2, 3\], the model wants \[3, 2\]"):
        source.read("a", (3, 2), 0, 6)


def test_a_cut_off_file_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.ones(100)}, tmp_path / "model.safetensors")
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(RuntimeError, match="model.safetensors is cut off"):
        SafetensorsDir(tmp_path)


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(RuntimeError, match="damaged"):
        SafetensorsDir(tmp_path)
