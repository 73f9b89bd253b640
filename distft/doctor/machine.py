"""Memory, cores, open files, shared memory and compilers of this machine, as a run would get them."""

import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

from distft.doctor.finding import Finding
from distft.doctor.limits import core_limit, memory_limit

GIB = 2**30
FEW_GIB = 4.0  # the demo's process takes more
OPEN_FILES = 65536  # sockets to every peer, a file for each data worker and shard
SHARED_GIB = 1.0  # nccl's and the data workers' buffers; Docker gives 64 MiB unasked


def check_memory(root: Path = Path("/")) -> Iterator[Finding]:
    """Finds how much memory is left, by the machine and by the tightest cgroup."""
    lines = (root / "proc/meminfo").read_text().splitlines()
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    total, left = kib["MemTotal"] / 2**20, kib["MemAvailable"] / 2**20
    seen = f"{left:.1f} of {total:.1f} GiB are free"
    if limit := memory_limit(root):
        bound, used = limit[0] / GIB, limit[1] / GIB
        if bound < total:
            seen += f"; the cgroup allows {bound:.1f} GiB, {bound - used:.1f} GiB of it free"
            left = min(left, bound - used)
    if left >= FEW_GIB:
        yield Finding("memory", "ok", seen)
    else:
        remedy = "more memory for the container or job (docker run --memory=, sbatch --mem=), or model.tiny=true"
        yield Finding("memory", "warning", seen, remedy)


def check_cores(root: Path = Path("/")) -> Iterator[Finding]:
    """Finds how many cores this process may use, by affinity and by the tightest cgroup."""
    usable, there = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    seen = f"{usable} of {there} usable"
    limit = core_limit(root)
    if limit is not None and limit < usable:
        few = max(1, int(limit))
        seen += f", but the cgroup gives the time of {limit:g}"
        yield Finding("cores", "warning", seen, f"export OMP_NUM_THREADS={few}, else threads wait for each other")
    elif "OMP_NUM_THREADS" in os.environ:
        yield Finding("cores", "ok", f"{seen}, OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}")
    else:
        yield Finding("cores", "ok", seen)


def check_open_files() -> Iterator[Finding]:
    """Finds the limit of open files, which a process may raise up to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= OPEN_FILES:
        yield Finding("open files", "ok", f"ulimit -n is {'unlimited' if soft == resource.RLIM_INFINITY else soft}")
        return
    reach = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    seen = f"ulimit -n is {soft}, of {'unlimited' if hard == resource.RLIM_INFINITY else hard} allowed"
    if reach > soft:
        yield Finding("open files", "warning", seen, f"ulimit -n {reach}")
    elif soft >= 4096:  # enough for a node; no command of the user's raises the hard limit
        yield Finding("open files", "ok", seen)
    else:
        remedy = f"ask for a hard limit of {OPEN_FILES}: /etc/security/limits.conf, or docker run --ulimit nofile="
        yield Finding("open files", "warning", seen, remedy)


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Iterator[Finding]:
    """Finds the room in shared memory, through which processes of one machine exchange tensors."""
    if not folder.is_dir():
        yield Finding("shared memory", "problem", f"{folder} is missing", f"mount -t tmpfs tmpfs {folder}")
        return
    disk = os.statvfs(folder)
    size, free = disk.f_blocks * disk.f_frsize / GIB, disk.f_bavail * disk.f_frsize / GIB
    seen = f"{free:.2f} of {size:.2f} GiB are free in {folder}"
    if free >= SHARED_GIB:
        yield Finding("shared memory", "ok", seen)
    else:
        remedy = f"docker run --shm-size=8g, or mount -o remount,size=8G {folder}, or delete what is left in it"
        yield Finding("shared memory", "warning", seen, remedy)


def check_compilers() -> Iterator[Finding]:
    """Finds what DeepSpeed builds its operators with, on first use: g++ and ninja."""
    remedies = {"g++": "apt-get install g++", "ninja": "pip install ninja"}
    missing = [name for name in remedies if not shutil.which(name)]
    for name in missing:
        seen = f"{name} is not on PATH; strategy=zero3_offload builds its optimizer with it"
        yield Finding("compilers", "warning", seen, remedies[name])
    if not missing:
        yield Finding("compilers", "ok", ", ".join(str(shutil.which(name)) for name in remedies))
