"""Counts machines, processes and accelerators, and checks what torch is built for, without importing it (3 s).

Traps: CUDA_VISIBLE_DEVICES hides devices from torch but not from /dev; a container shows its host's PCI bus and
/proc/driver/nvidia, also where it was given no device, so what counts as plugged in is in /dev.
"""

import importlib.util
import os
import re
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

NUMBERS = ("OMP_NUM_THREADS", "HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT")  # variables


def node_range(asked: int | str) -> tuple[int, int]:
    """Returns the fewest and the most nodes: 4 is 4 to 4, `2-4` is 2 to 4."""
    counts = [int(part) for part in str(asked).split("-")]
    return min(counts), max(counts)


def processes_per_node(launcher: Mapping[str, Any]) -> int:
    """Returns the processes of a node; `auto` is one for each accelerator the job asks for, or this machine has."""
    asked = launcher.get("processes_per_node", 1)  # of a hosted model: this one
    if asked != "auto":
        return asked
    if "gpus_per_node" in launcher:  # of the nodes, which this machine may be nothing like
        return num_gpus(launcher["gpus_per_node"]) or 1
    return num_accelerators() or 1


def num_gpus(asked: int | str | None) -> int:
    """Returns the number in `4` or `a100:4`; 0 for none."""
    return int(str(asked).rpartition(":")[2] or 0) if asked else 0


def is_positive(text: str) -> bool:
    """Returns whether a variable's text is a whole number of at least 1."""
    return text.strip().isdecimal() and int(text) > 0


def wrong_numbers(variables: MutableMapping[str, str] = os.environ) -> list[str]:
    """Returns a line for each variable that a library here reads as a number and that holds none.

    One that is empty counts as not set and is removed: int("") is an error of its library, without its name.
    """
    lines = []
    for name in NUMBERS:
        text = variables.get(name, "1")
        if not text.strip():
            del variables[name]
        elif not is_positive(text.partition(",")[0] if name == "OMP_NUM_THREADS" else text):
            lines.append(f"{name}={text} is not a whole number of at least 1. Try: unset {name}")
    return lines


LEAST_BYTES = 4 * 2**30  # of an AMD device's own memory: one inside a CPU has less, and nobody trains on it
_NVIDIA_VENDOR, _DISPLAY_CLASS = "0x10de", "0x03"  # of PCI
_OWN_HEAPS = (1, 2)  # of KFD: visible to the host, and not; 0 is the host's memory
_INDEX = re.compile(r"[+-]?\d+")


@dataclass(frozen=True)
class Plugged:
    """The devices of one vendor that this process may use, by its environment."""

    vendor: str  # NVIDIA or AMD
    count: int

    @property
    def variable(self) -> str:
        """The environment variable that hides them."""
        return "CUDA_VISIBLE_DEVICES" if self.vendor == "NVIDIA" else "HIP_VISIBLE_DEVICES"

    def __str__(self) -> str:
        return f"{self.count} {self.vendor} device{'s' * (self.count > 1)}"


def num_accelerators(devices: Path = Path("/dev"), system: Path = Path("/sys"), proc: Path = Path("/proc")) -> int:
    """Returns how many CUDA or ROCm devices torch will see here, if it is built for them."""
    return plugged_in(devices, system, proc).count


def plugged_in(
    devices: Path = Path("/dev"),
    system: Path = Path("/sys"),
    proc: Path = Path("/proc"),
    variables: Mapping[str, str] = os.environ,
) -> Plugged:
    """Returns the devices whose driver is there and that no variable of the environment hides."""
    nvidia = len(list(devices.glob("nvidia[0-9]*")))
    if nvidia:
        uuids = sorted(filter(None, map(_uuid, proc.glob("driver/nvidia/gpus/*/information"))))
        return Plugged("NVIDIA", visible(variables.get("CUDA_VISIBLE_DEVICES"), nvidia, uuids))
    amd = _num_rocm(devices, system)
    amd = visible(variables.get("ROCR_VISIBLE_DEVICES"), amd)
    asked = variables.get("HIP_VISIBLE_DEVICES", variables.get("CUDA_VISIBLE_DEVICES"))  # among those that ROCR leaves
    return Plugged("AMD", visible(asked, amd))


def visible(asked: str | None, there: int, uuids: Sequence[str] = ()) -> int:
    """Returns how many of `there` devices a list like CUDA_VISIBLE_DEVICES leaves, counted as CUDA counts it.

    None: all. Indices, or beginnings of UUIDs: the first that is no device's ends the list, the same device twice makes
    it empty. Of MIG instances a process gets the first alone. uuids: of all devices; empty: not known.
    """
    if asked is None:
        return there
    words = [word.strip() for word in asked.split(",")]
    if words[0].startswith("MIG-"):
        return min(1, there)
    if words[0].startswith("GPU-"):
        named = [_of_uuid(word, uuids) if word.startswith("GPU-") else None for word in words]
        found = named[: named.index(None)] if None in named else named
    else:
        indices = [_index(word) for word in words]
        found = indices[: next((i for i, index in enumerate(indices) if index < 0), len(indices))]
    if len(set(found)) < len(found):
        return 0
    return min(there, next((i for i, each in enumerate(found) if isinstance(each, int) and each >= there), len(found)))


def _index(word: str) -> int:
    """Returns the whole number that a word begins with, as C's strtol reads it; -1 when it begins with none."""
    match = _INDEX.match(word)
    return int(match[0]) if match else -1


def _of_uuid(word: str, uuids: Sequence[str]) -> str | None:
    """Returns the one UUID that begins with `word`; the word itself where none is known."""
    found = [uuid for uuid in uuids if uuid.startswith(word)] if uuids else [word]
    return found[0] if len(found) == 1 else None


def _uuid(information: Path) -> str:
    said = [line.partition(":")[2].strip() for line in _lines(information) if line.startswith("GPU UUID")]
    return said[0] if said else ""


def _num_rocm(devices: Path, system: Path) -> int:
    """Counts KFD nodes that are no CPU, whose simd_count is positive, and have memory of their own to train in."""
    if not (devices / "kfd").exists():
        return 0
    nodes = system.glob("class/kfd/kfd/topology/nodes/*/properties")
    return sum(_number(node, "simd_count") > 0 and _has_memory(node.parent) for node in nodes)


def _has_memory(node: Path) -> bool:
    banks = list(node.glob("mem_banks/*/properties"))
    own = [bank for bank in banks if _number(bank, "heap_type") in _OWN_HEAPS]
    return not banks or sum(_number(bank, "size_in_bytes") for bank in own) >= LEAST_BYTES


def _number(properties: Path, name: str) -> int:
    return next((int(line.split()[1]) for line in _lines(properties) if line.startswith(f"{name} ")), 0)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


@dataclass(frozen=True)
class Build:
    """What the installed torch is, and is built for."""

    version: str
    cuda: str | None
    hip: str | None

    def __str__(self) -> str:
        return f"CUDA {self.cuda}" if self.cuda else f"ROCm {self.hip}" if self.hip else "CPU"


@cache
def torch_build() -> Build | None:
    """Returns what torch's own version.py says; None when torch is not here."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = "\n".join(_lines(Path(spec.origin).with_name("version.py")))
    found = dict(re.findall(r"^(__version__|cuda|hip)\b[^=\n]*= *['\"]([^'\"]*)['\"]", text, re.M))
    return Build(found.get("__version__", ""), found.get("cuda"), found.get("hip"))


def wasted(plugged: Plugged, build: Build | None, why: str = "") -> str | None:
    """Returns what to say of devices that torch cannot use, a run being on the CPU then; None where it can.

    why: torch's own reason, where it is built for them and fails all the same.
    """
    if not plugged.count or build is None:
        return None
    is_built = build.cuda if plugged.vendor == "NVIDIA" else build.hip
    if is_built and not why:
        return None
    kind = "CUDA" if plugged.vendor == "NVIDIA" else "ROCm"
    cure = f"a newer driver, or a {kind} build of torch that fits it" if is_built else f"a {kind} build of torch"
    return (
        f"{plugged} {'is' if plugged.count == 1 else 'are'} plugged in, and torch {build.version}, built for {build}, "
        f"cannot use {'it' if plugged.count == 1 else 'them'}{f': {why}' if why else ''}. Try: {cure} "
        f"(https://pytorch.org/get-started/locally), or {plugged.variable}= before the command, to run on the CPU"
    )


def without_driver(
    devices: Path = Path("/dev"), system: Path = Path("/sys"), variables: Mapping[str, str] = os.environ
) -> str | None:
    """Returns what to say of NVIDIA GPUs on the PCI bus where none is in /dev; None when there are none.

    Their driver is missing, or this is a container that was given none of its host's: that is no error.
    """
    if any(devices.glob("nvidia[0-9]*")) or visible(variables.get("CUDA_VISIBLE_DEVICES"), 1) == 0:
        return None
    count = sum(1 for folder in system.glob("bus/pci/devices/*") if _is_nvidia_gpu(folder))
    if not count:
        return None
    return (
        f"{count} NVIDIA GPU{'s' * (count > 1)} on the PCI bus and none in {devices}: the run is on the CPU. "
        "Try: the NVIDIA driver, or --gpus all for the container; CUDA_VISIBLE_DEVICES= before the command says that "
        "the CPU is meant"
    )


def _is_nvidia_gpu(folder: Path) -> bool:
    vendor, kind = (next(iter(_lines(folder / name)), "") for name in ("vendor", "class"))
    return vendor.strip() == _NVIDIA_VENDOR and kind.startswith(_DISPLAY_CLASS)
