"""Writes DeepSpeed's universal checkpoint: fp32 weights and Adam's moments, for ZeRO 1 to 3 at any world size.

    deepspeed.initialize(config={"checkpoint": {"load_universal": true}, ...})
    engine.load_checkpoint(FOLDER, load_lr_scheduler_states=False)

    FOLDER/latest_universal                          name of the step
    FOLDER/step-00000020/zero/<parameter>/{fp32,exp_avg,exp_avg_sq,step}.pt
    FOLDER/step-00000020/zero/optimizer_state.pt     settings of the optimizer's groups
    FOLDER/step-00000020/*_model_states.pt           the step; one name for stages 1 and 2, one for 3

The format stores all of them as pickles. distft only writes them, for other programs.
Trap: at stage 3, DeepSpeed (0.19) applies the settings of the first group to all groups, including weight decay.
"""

from math import prod
from pathlib import Path

import torch
from transformers import PreTrainedModel

from distft.checkpoint.format import PARAMETER
from distft.checkpoint.load import Checkpoint
from distft.compat.reach import version_of
from distft.export.dcp import named_groups

FILES = {PARAMETER: "fp32", "exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq"}
MODEL_STATES = ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt")


def write_deepspeed_universal(
    checkpoint: Checkpoint, model: PreTrainedModel, optimizer: torch.optim.Optimizer, folder: Path
) -> None:
    """Writes the checkpoint in fp32; `model` and `optimizer` are on the meta device.

    RuntimeError when the optimizer state is not that of Adam, the only one that DeepSpeed's layout supports.
    """
    if checkpoint.slots != {"exp_avg", "exp_avg_sq", "step"}:
        found = ", ".join(sorted(checkpoint.slots)) or "nothing"
        raise RuntimeError(f"DeepSpeed's format holds exp_avg, exp_avg_sq and step of Adam; the optimizer has {found}")
    tag = folder / checkpoint.folder.name
    for name in checkpoint.names:
        parameter = tag / "zero" / name
        parameter.mkdir(parents=True)
        for slot, file in FILES.items():
            _save({"param": _whole(checkpoint, slot, name), "cat_dim": 0}, parameter / f"{file}.pt")
        _save(_whole(checkpoint, "step", name), parameter / "step.pt")
    groups = named_groups(model, optimizer)
    step = _whole(checkpoint, "step", checkpoint.names[0])
    settings = {
        "ds_version": version_of("deepspeed"),
        "param_groups": groups,  # read by stages 1 and 2; stage 3 reads the next entry
        "optimizer_state_dict": {"state": {0: {"step": step}}, "param_groups": groups},
    }
    _save(settings, tag / "zero" / "optimizer_state.pt")
    counts = {"global_steps": checkpoint.step, "skipped_steps": 0, "dp_world_size": 1, "mp_world_size": 1}
    for name in MODEL_STATES:
        _save({"module": {}, **counts}, tag / name)
    (folder / "latest_universal").write_text(tag.name)


def _save(value: object, file: Path) -> None:
    with file.open("wb") as handle:  # with a path, torch hides the reason of a failed write
        torch.save(value, handle)


def _whole(checkpoint: Checkpoint, slot: str, name: str) -> torch.Tensor:
    shape = checkpoint.shapes[slot, name]
    return checkpoint.read(name, shape, 0, prod(shape), slot).view(shape)
