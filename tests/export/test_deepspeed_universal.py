"""A plain DeepSpeed program loads the folder at ZeRO 1, 2 and 3: weights and moments bit for bit, and the step."""

from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distft.checkpoint.load import Checkpoint
from distft.export.deepspeed_universal import write_deepspeed_universal
from distft.optim.groups import decay_groups
from tests.support.ranks import run_ranks
from tests.support.reference import dense
from tests.support.train_cases import ADAMW, tiny_model
from tests.support.trained import TIED, checkpoint_of

pytestmark = pytest.mark.slow


def export_universal(checkpoint: Checkpoint, folder: Path, optimizer: Any = torch.optim.AdamW) -> None:
    model = tiny_model(TIED)
    groups = decay_groups([(p, p.ndim) for p in model.parameters()])
    write_deepspeed_universal(checkpoint, model, optimizer(groups, **ADAMW), folder)


def test_zero_1_to_3_continue_from_the_export(trained: Any, tmp_path: Path) -> None:
    checkpoint = Checkpoint(checkpoint_of(trained["zero2", TIED, 2, 2]))
    export_universal(checkpoint, tmp_path / "out")
    tiny_model(TIED).config.save_pretrained(tmp_path / "base")
    answers = run_ranks(2, "tests.support.universal_program", str(tmp_path / "out"), str(tmp_path / "base"), "1,2,3")
    assert list(answers) == ["1", "2", "3"]
    for stage, answer in answers.items():
        assert set(answer["steps"]) == {5.0} and answer["global_steps"] == 5
        assert answer["lr"] == [ADAMW["lr"]] * 2
        found = load_file(tmp_path / "out" / f"stage-{stage}.safetensors")
        logits = found.pop("logits")
        keys = {tuple(key.split("|")): value for key, value in found.items()}
        assert sorted(name for slot, name in keys if slot == "parameter") == sorted(checkpoint.names)
        for (slot, name), value in keys.items():
            shape = checkpoint.shapes[slot, name]
            expected = checkpoint.read(name, shape, 0, prod(shape), slot).view(shape)
            assert torch.equal(value.view(shape), expected), f"stage {stage}: {slot} of {name}"
        assert (logits - _logits(checkpoint)).abs().max() < 1e-6, f"stage {stage}: the working weights follow"


def _logits(checkpoint: Checkpoint) -> torch.Tensor:
    model = dense(TIED, 0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(checkpoint.read(name, tuple(parameter.shape), 0, parameter.numel()).view(parameter.shape))
        return model.eval()(input_ids=torch.arange(12)[None]).logits


def test_optimizer_state_other_than_adam_is_refused(trained: Any, tmp_path: Path) -> None:
    checkpoint = Checkpoint(checkpoint_of(trained["zero2", TIED, 2, 2]))
    checkpoint.chunks = {key: chunks for key, chunks in checkpoint.chunks.items() if key[0] != "exp_avg_sq"}  # pyright: ignore
    with pytest.raises(
        RuntimeError, match=r"holds exp_avg, exp_avg_sq and step of Adam; the optimizer has exp_avg, step"
    ):
        export_universal(checkpoint, tmp_path / "out")
