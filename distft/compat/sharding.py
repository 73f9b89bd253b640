"""FSDP2 and DTensor: private access to local shards and the mixed precision policy."""

from typing import cast

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from distft.compat.reach import Reach

_SEEN = "torch 2.11 to 2.13"
REACHES = (
    Reach(
        "torch.distributed.tensor._utils.compute_local_shape_and_global_offset",
        _SEEN,
        "which part of a tensor this process keeps, whatever its mesh and placements",
        takes=("global_shape", "mesh", "placements"),
    ),
    Reach("torch.distributed.fsdp.FSDPModule._get_fsdp_state", _SEEN, "the live settings of a module"),
    Reach(
        "torch.distributed.fsdp._fully_shard._fsdp_state.FSDPState",
        _SEEN,
        "its dtypes",
        holds=("_mp_policy",),
    ),
    Reach("torch._foreach_mul_", _SEEN, "scales all gradients in one call"),
)


def local_box(tensor: DTensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the sizes of the part of `tensor` that this process keeps, and its offset in each dim."""
    sizes, offsets = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tuple(sizes), tuple(offsets)


def mixed_precision(module: nn.Module) -> MixedPrecisionPolicy:
    """Returns the dtypes that FSDP2 computes and reduces a module in, read from the live module."""
    return cast(FSDPModule, module)._get_fsdp_state()._mp_policy


def scale_in_place(tensors: list[torch.Tensor], factor: float) -> None:
    """Multiplies every tensor by `factor`, in as few calls of the device as torch can."""
    torch._foreach_mul_(tensors, factor)  # pyright: ignore[reportPrivateImportUsage]
