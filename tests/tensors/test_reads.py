"""Eight ranks read each byte of a model or checkpoint once, in large requests (by strace)."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from distft.checkpoint.format import step_dir
from distft.tensors.integrity import BLOCK
from distft.tensors.safetensors import read_header
from tests.support.read_once import WORLD
from tests.support.traced import Call, trace

STRATEGIES = ("ddp", "fsdp", "zero3")
SMALL_READS = 3  # of one file: the length of its header, the header, and its end


def write_model(folder: Path) -> None:
    """Writes 63 MiB in three files."""
    config = LlamaConfig(
        hidden_size=512, intermediate_size=1536, num_hidden_layers=3, num_attention_heads=8, vocab_size=6000
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.to_empty(device="cpu").save_pretrained(folder, max_shard_size="25MB")


@pytest.fixture(scope="module")
def loads(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Call]]:
    """The folder with models/ and checkpoints/, a folder in each by strategy, and all calls of all ranks."""
    folder = tmp_path_factory.mktemp("reads")
    write_model(folder / "models" / STRATEGIES[0])
    for strategy in STRATEGIES[1:]:
        shutil.copytree(folder / "models" / STRATEGIES[0], folder / "models" / strategy)
    command = [sys.executable, "-m", "tests.support.read_once", str(folder / "models"), str(folder / "checkpoints")]
    return folder, trace(command, folder / "trace")


def hold(files: Sequence[Path], calls: Sequence[Call], what: str) -> None:
    """Asserts that the files were read once by all processes together, in requests of BLOCK but for their ends."""
    size = sum(file.stat().st_size for file in files)
    reads = [call for call in calls if call.is_read and call.path in map(str, files)]
    done = sum(call.answer for call in reads)
    large = [call for call in reads if call.answer >= BLOCK]
    processes = len({call.process for call in large})
    print(f"{what}: {done / size:.4f} of {size >> 20} MiB, {len(large)} requests of 16 MiB by {processes} threads")
    assert size <= done <= 1.05 * size
    assert not [call for call in calls if call.name == "mmap" and call.path in map(str, files)]
    for file in files:
        own = [call.answer for call in reads if call.path == str(file)]
        data = file.stat().st_size - 8 - read_header(file)["length"]
        assert sum(answer >= BLOCK for answer in own) == data // BLOCK
        assert sum(answer < BLOCK for answer in own) <= SMALL_READS


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_eight_ranks_read_each_byte_of_a_model_once(strategy: str, loads: tuple[Path, list[Call]]) -> None:
    folder, calls = loads
    hold(sorted((folder / "models" / strategy).glob("*.safetensors")), calls, f"model under {strategy}")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_eight_ranks_read_each_byte_of_a_checkpoint_once(strategy: str, loads: tuple[Path, list[Call]]) -> None:
    """Checking that each is what was written included."""
    folder, calls = loads
    files = sorted(step_dir(folder / "checkpoints" / strategy, 1).glob("*.safetensors"))
    assert len(files) == WORLD
    hold(files, calls, f"checkpoint under {strategy}")


@pytest.mark.slow
def test_the_manifest_is_read_by_one_rank_and_nothing_is_listed(loads: tuple[Path, list[Call]]) -> None:
    folder, calls = loads
    checkpoints = folder / "checkpoints" / "zero3"
    manifest = str(step_dir(checkpoints, 1) / "manifest.json")
    readers = {call.process for call in calls if call.is_read and call.path == manifest}
    assert len(readers) == 1
    listed = [call for call in calls if "getdents" in call.name and call.path.startswith(str(checkpoints))]
    assert listed == []
