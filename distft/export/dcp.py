"""Writes a torch.distributed.checkpoint folder of parameters and optimizer state, one tensor in memory at a time.

    state = {"model": get_model_state_dict(model), "optim": get_optimizer_state_dict(model, optimizer)}
    dcp.load(state, checkpoint_id=FOLDER)

The format stores its metadata and tensors as pickles. distft only writes them, for other programs.
"""

from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.state_dict_saver import save
from transformers import PreTrainedModel

from distft.checkpoint.format import PARAMETER
from distft.checkpoint.load import Checkpoint

Group = dict[str, Any]  # a param_group: its keys are those of the optimizer


def named_groups(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Group]:
    """Returns `param_groups` with parameter names, as torch's get_optimizer_state_dict does."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [group | {"params": [names[id(p)] for p in group["params"]]} for group in optimizer.param_groups]


Key = tuple[str, str]  # slot, parameter


def write_dcp(checkpoint: Checkpoint, model: PreTrainedModel, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Writes the checkpoint in fp32 under the names that torch uses for the state of `model` and `optimizer`.

    Both are on the meta device. RuntimeError or OSError when the write fails.
    """
    own = {id(parameter): name for name, parameter in model.named_parameters()}
    weights = {name: (PARAMETER, own[id(p)]) for name, p in model.named_parameters(remove_duplicate=False)}
    states = {
        name: {slot: key for slot in checkpoint.slots if (key := (slot, name)) in checkpoint.shapes}
        for name in own.values()
    }
    keys = {f"model.{name}": key for name, key in weights.items()}
    keys |= {f"optim.state.{name}.{slot}": key for name, state in states.items() for slot, key in state.items()}
    state = {
        "model": {name: _empty(checkpoint, key) for name, key in weights.items()},
        "optim": {
            "state": {
                name: {slot: _empty(checkpoint, key) for slot, key in state.items()} for name, state in states.items()
            },
            "param_groups": named_groups(model, optimizer),
        },
    }
    writer = FileSystemWriter(folder, single_file_per_rank=True)
    try:
        save(state, storage_writer=writer, planner=_OneAtATime(checkpoint, keys), no_dist=True)
    except CheckpointException as error:
        reason, _ = next(iter(error.failures.values()))
        raise RuntimeError(str(reason)) from reason


def _empty(checkpoint: Checkpoint, key: Key) -> torch.Tensor:
    return torch.empty(checkpoint.shapes[key], device="meta")


class _OneAtATime(DefaultSavePlanner):
    """Plans with meta tensors, and reads each tensor when it is written."""

    def __init__(self, checkpoint: Checkpoint, keys: dict[str, Key]) -> None:
        super().__init__()
        self.checkpoint, self.keys = checkpoint, keys

    def lookup_object(self, index: MetadataIndex) -> Any:
        if index.fqn not in self.keys:
            return super().lookup_object(index)
        slot, name = key = self.keys[index.fqn]
        shape = self.checkpoint.shapes[key]
        return self.checkpoint.read(name, shape, 0, prod(shape), slot).view(shape)
