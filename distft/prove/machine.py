"""Describes this machine: `python -m distft.prove.machine` prints JSON, in its own process, since it loads torch."""

import json
import platform
import sys

import torch

from distft.compat.reach import OWN_VERSION
from distft.prove.place import MachineFacts
from distft.runtime.environment import code_of, describe
from distft.runtime.process_group import device_of

PACKAGES = (
    "torch", "triton", "transformers", "deepspeed", "tokenizers", "safetensors", "accelerate", "peft", "numpy",
    "pyarrow", "datasets", "hydra-core", "omegaconf", "flash-attn", "liger-kernel",
)  # fmt: skip


def describe_machine() -> MachineFacts:
    """Returns device, cores and versions; nothing that identifies a person or this host."""
    device, known = device_of(0), describe()
    devices = torch.accelerator.device_count() if device.type != "cpu" else 0
    installed = known["packages"]
    facts: MachineFacts = {
        "device": device.type,
        "name": known["hardware"]["cpu"],
        "devices": devices,
        "cores": known["hardware"]["cores"],
        "memory_gib": known["hardware"]["memory_gib"],
        "platform": f"{platform.system()} {platform.release().partition('-')[0]} {platform.machine()}",
        "python": known["python"],
        "packages": {name: installed[name] for name in PACKAGES if name in installed},
        "distft": OWN_VERSION,
        "code": code_of(),
        "time": known["time"],
    }
    if device.type == "cuda":
        add_cuda(facts, device)
    return facts


def add_cuda(facts: MachineFacts, device: torch.device) -> None:
    """Adds the properties of a CUDA or ROCm device and the versions of its libraries."""
    properties = torch.cuda.get_device_properties(device)
    facts["name"] = properties.name
    facts["device_memory_gib"] = round(properties.total_memory / 2**30, 1)
    facts["capability"] = f"{properties.major}.{properties.minor}"
    facts["runtime"] = torch.version.cuda or torch.version.hip
    facts["cudnn"] = torch.backends.cudnn.version()
    facts["nccl"] = nccl_version()
    facts["bf16"] = torch.cuda.is_bf16_supported(including_emulation=False)


def nccl_version() -> str | None:
    if not torch.distributed.is_nccl_available():
        return None
    from torch.cuda import nccl

    return ".".join(map(str, nccl.version()))


if __name__ == "__main__":
    json.dump(describe_machine(), sys.stdout)
