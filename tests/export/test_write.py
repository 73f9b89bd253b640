"""An export folder is published atomically."""

import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from distft.checkpoint.load import Checkpoint
from distft.checkpoint.weights import SavedWeights
from distft.export.dcp import write_dcp
from distft.export.deepspeed_universal import write_deepspeed_universal
from distft.export.huggingface import TrainedWeights, whole_or_nothing, write_huggingface
from distft.models.init import FreshWeights
from distft.optim.groups import decay_groups
from tests.support.train_cases import tiny_model
from tests.support.trained import MAIN, checkpoint_of


def test_an_export_folder_appears_atomically(tmp_path: Path) -> None:
    with whole_or_nothing(tmp_path / "out") as folder:
        (folder / "a").write_text("a")
        assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "a"]


def test_a_failed_export_deletes_its_files(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="disk"), whole_or_nothing(tmp_path / "out") as folder:
        (folder / "a").write_text("a")
        raise OSError("the disk is full")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("word", ["dcp", "deepspeed_universal", "huggingface"])
def test_a_full_disk_is_named_and_nothing_is_left(word: str, trained: Any, tmp_path: Path) -> None:
    checkpoint, model = Checkpoint(checkpoint_of(trained["fsdp", MAIN, 2, 2])), tiny_model(MAIN)
    optimizer = torch.optim.AdamW(decay_groups([(p, p.ndim) for p in model.parameters()]))
    write = {
        "dcp": lambda folder: write_dcp(checkpoint, model, optimizer, folder),
        "deepspeed_universal": lambda folder: write_deepspeed_universal(checkpoint, model, optimizer, folder),
        "huggingface": lambda folder: write_huggingface(
            TrainedWeights(SavedWeights([checkpoint]), model, FreshWeights(model, 0)), torch.float32, folder
        ),
    }
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"), whole_or_nothing(tmp_path / "out") as folder:
            write[word](folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
