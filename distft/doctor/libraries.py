"""Versions and capabilities of torch or DeepSpeed as JSON: `python -m distft.doctor.libraries torch|deepspeed`.

It runs in its own process: the imports take seconds, and a broken library may crash its process.
"""

import json
import os
import sys
from typing import TypedDict

from distft.runtime.logs import silence


class Torch(TypedDict):
    """What torch is built for, and the devices that it sees."""

    version: str
    cuda: str | None
    hip: str | None
    backends: list[str]  # of collectives
    nccl: str | None
    kind: str | None  # of the accelerators: cuda, xpu ...
    devices: list[str]  # their names


class DeepSpeed(TypedDict):
    """The operators of DeepSpeed."""

    version: str
    able: dict[str, bool]  # operator -> whether it can be built here
    built: list[str]  # with the install


def describe_torch() -> Torch:
    """Returns torch's version, build and visible devices."""
    import torch
    import torch.cuda.nccl
    import torch.distributed as dist

    accelerator = torch.accelerator.current_accelerator()
    count = torch.accelerator.device_count()
    nccl = dist.is_nccl_available()
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "backends": [name for name in ("gloo", "nccl", "mpi", "xccl") if getattr(dist, f"is_{name}_available")()],
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if nccl else None,
        "kind": accelerator.type if accelerator else None,
        "devices": [_name(accelerator.type, index) for index in range(count)] if accelerator else [],
    }


def _name(kind: str, index: int) -> str:
    import torch

    return getattr(torch, kind).get_device_name(index)


def describe_deepspeed() -> DeepSpeed:
    """Returns DeepSpeed's version and its operators: those that can be built here, and those already built."""
    import deepspeed
    from deepspeed.git_version_info import installed_ops
    from deepspeed.ops.op_builder.all_ops import ALL_OPS

    able = {name: bool(builder.is_compatible(verbose=False)) for name, builder in ALL_OPS.items()}
    built = [name for name, there in installed_ops.items() if there]
    return {"version": deepspeed.__version__, "able": able, "built": built}


if __name__ == "__main__":
    answer = os.dup(1)
    os.dup2(2, 1)  # the libraries' output goes to stderr
    silence()
    result = {"torch": describe_torch, "deepspeed": describe_deepspeed}[sys.argv[1]]()
    with os.fdopen(answer, "w") as file:
        print(json.dumps(result), file=file)
