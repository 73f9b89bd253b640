"""torch, the accelerators it sees against those that are plugged in, and DeepSpeed's operators."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from distft.config.machines import num_accelerators
from distft.doctor.child import Ended, ask_program
from distft.doctor.finding import Finding

_SECONDS_TO_IMPORT = 120  # from a shared disk that many nodes read at once
_OWN_BACKEND = {"cuda": "nccl", "xpu": "xccl"}


def check_torch(devices: Path = Path("/dev")) -> Iterator[Finding]:
    """Finds torch's build, and whether it sees the accelerators that the machine has."""
    try:
        torch = ask_program("distft.doctor.libraries", "torch", seconds=_SECONDS_TO_IMPORT)
    except Ended as ended:
        yield Finding("torch", "problem", f"cannot be imported: {ended}", "pip install -c constraints.txt torch")
        return
    build = f"CUDA {torch['cuda']}" if torch["cuda"] else f"ROCm {torch['hip']}" if torch["hip"] else "CPU"
    backends = ", ".join(torch["backends"])
    yield Finding("torch", "ok", f"{torch['version']}, built for {build}; collectives: {backends}")
    plugged, seen = num_accelerators(devices), len(torch["devices"])
    driver = driver_version()
    told = f"{seen} seen by torch ({', '.join(dict.fromkeys(torch['devices']))})" if seen else "none seen by torch"
    told += f", {plugged} plugged in" * (plugged != seen) + f", driver {driver}" * bool(driver)
    told += f", NCCL {torch['nccl']}" * bool(torch["nccl"] and seen)
    remedy = "a torch for this machine's driver: https://pytorch.org/get-started/locally, or a newer driver"
    if plugged and not seen:
        yield Finding("accelerator", "problem", f"{told}, which is built for {build}", remedy)
    elif seen and _OWN_BACKEND.get(torch["kind"], "gloo") not in torch["backends"]:
        yield Finding("accelerator", "problem", f"{told}, without {_OWN_BACKEND[torch['kind']]}", remedy)
    elif seen < plugged:
        yield Finding("accelerator", "warning", told, "nvidia-smi, rocm-smi or dmesg tell what the others lack")
    else:
        yield Finding("accelerator", "ok", told if seen else "none: runs here are on the CPU")


def driver_version() -> str | None:
    """Returns the version of NVIDIA's driver where its tool tells one."""
    if not shutil.which("nvidia-smi"):
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.split("\n")[0].strip() or None if done.returncode == 0 else None


def check_deepspeed() -> Iterator[Finding]:
    """Finds which of DeepSpeed's operators can be used here; zero3_offload needs the CPU's Adam."""
    try:
        found = ask_program("distft.doctor.libraries", "deepspeed", seconds=_SECONDS_TO_IMPORT)
    except Ended as ended:
        remedy = "pip install -c constraints.txt deepspeed; the strategies ddp, fsdp and hsdp do without"
        yield Finding("deepspeed", "problem", f"cannot be imported: {ended}", remedy)
        return
    able = [name for name, can in found["able"].items() if can and "not_implemented" not in name]
    not_able = [name for name, can in found["able"].items() if not can]
    seen = f"{found['version']}, can build {', '.join(able) or 'nothing'}"
    seen += f"; built already: {', '.join(found['built'])}" * bool(found["built"])
    seen += f"; not {', '.join(not_able)}" * bool(not_able)
    if "cpu_adam" in (*able, *found["built"]):
        yield Finding("deepspeed", "ok", seen)
    else:
        remedy = "another strategy than zero3_offload, or python -m deepspeed.env_report, which says why"
        yield Finding("deepspeed", "warning", seen, remedy)
