"""Checks of this machine: memory limits, folders, packages, accelerators.

Trap: a cgroup limit, in v1 and v2, may be set at any level between the process's own cgroup and the root.

Trap: the metadata of an editable install is as old as the install, so the checkout's pyproject.toml comes first.
"""

import importlib.metadata
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from distft.compat.reach import version_of
from distft.doctor.finding import Ended, Finding, ask_program
from distft.doctor.libraries import DeepSpeed, Torch
from distft.machines import num_accelerators
from distft.paths import PACKAGE

_UNLIMITED = 2**60  # cgroup v1 has the largest multiple of a page instead of `max`


def memory_limit(root: Path = Path("/")) -> tuple[int, int] | None:
    """Returns the tightest memory limit of this process and its usage, in bytes; None without a limit."""
    found = []
    for folder in _folders("memory", root):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            number = _number(folder / limit)
            if number is not None and number < _UNLIMITED:
                found.append((number, (_number(folder / used) or 0) - _cached(folder)))
    return min(found, key=lambda each: each[0] - each[1], default=None)


def core_limit(root: Path = Path("/")) -> float | None:
    """Returns the CPU quota of this process in cores; None without a limit."""
    found = []
    for folder in _folders("cpu", root):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        quota = quota or _text(folder / "cpu.cfs_quota_us")
        period = period or _text(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit():
            found.append(int(quota) / int(period))
    return min(found, default=None)


def _folders(controller: str, root: Path) -> Iterator[Path]:
    """Yields the cgroup folders that may limit this process, its own first.

    In a container, the path in /proc/self/cgroup is the host's, but the mount is the container's.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controllers and controller)
        own = mount / path.lstrip("/")
        yield from [each for each in (own, *own.parents) if each.is_relative_to(mount)]


def _cached(folder: Path) -> int:
    """Returns the bytes of page cache, which the kernel can free but reports as used."""
    words = [line.split() for line in _text(folder / "memory.stat").splitlines()]
    counted = {name: int(number) for name, number in words}
    return counted.get("total_inactive_file", counted.get("inactive_file", 0))


def _number(file: Path) -> int | None:
    text = _text(file)
    return int(text) if text.isdigit() else None


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


GIB = 2**30
FEW_GIB = 4.0  # the demo's process needs more
OPEN_FILES = 65536  # sockets to every peer, a file for each data worker and shard
SHARED_GIB = 1.0  # buffers of NCCL and data workers; Docker's default is 64 MiB


def check_memory(root: Path = Path("/")) -> Iterator[Finding]:
    """Checks the free memory of the machine and of the tightest cgroup."""
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
    """Checks how many cores this process may use, by affinity and by the tightest cgroup."""
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
    """Checks the limit on open files, which a process may raise up to the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= OPEN_FILES:
        yield Finding("open files", "ok", f"ulimit -n is {'unlimited' if soft == resource.RLIM_INFINITY else soft}")
        return
    reach = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    seen = f"ulimit -n is {soft}, of {'unlimited' if hard == resource.RLIM_INFINITY else hard} allowed"
    if reach > soft:
        yield Finding("open files", "warning", seen, f"ulimit -n {reach}")
    elif soft >= 4096:  # enough for one node; a user cannot raise the hard limit
        yield Finding("open files", "ok", seen)
    else:
        remedy = f"request a hard limit of {OPEN_FILES}: /etc/security/limits.conf, or docker run --ulimit nofile="
        yield Finding("open files", "warning", seen, remedy)


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Iterator[Finding]:
    """Checks the free shared memory, which processes of one machine use to exchange tensors."""
    if not folder.is_dir():
        yield Finding("shared memory", "problem", f"{folder} is missing", f"mount -t tmpfs tmpfs {folder}")
        return
    disk = os.statvfs(folder)
    size, free = disk.f_blocks * disk.f_frsize / GIB, disk.f_bavail * disk.f_frsize / GIB
    seen = f"{free:.2f} of {size:.2f} GiB are free in {folder}"
    if free >= SHARED_GIB:
        yield Finding("shared memory", "ok", seen)
    else:
        remedy = f"docker run --shm-size=8g, or mount -o remount,size=8G {folder}, or delete old files in it"
        yield Finding("shared memory", "warning", seen, remedy)


def check_compilers() -> Iterator[Finding]:
    """Checks for g++ and ninja, with which DeepSpeed builds its operators on first use."""
    remedies = {"g++": "apt-get install g++", "ninja": "pip install ninja"}
    missing = [name for name in remedies if not shutil.which(name)]
    for name in missing:
        seen = f"{name} is not on PATH; strategy=zero3_offload builds its optimizer with it"
        yield Finding("compilers", "warning", seen, remedies[name])
    if not missing:
        yield Finding("compilers", "ok", ", ".join(str(shutil.which(name)) for name in remedies))


LOW_GIB, LEAST_GIB = 20.0, 1.0
IN_MEMORY = ("tmpfs", "ramfs")
_PROBE_BYTES = 2**20


def check_folder(name: str, folder: Path, *, lasts: bool = True) -> Iterator[Finding]:
    """Checks that a folder, or its nearest existing parent, is writable; `lasts`: its content must survive a reboot."""
    there = next(each for each in (folder, *folder.parents) if each.exists())
    other = f"another {name}=" if lasts else "another TMPDIR"
    if not there.is_dir():
        yield Finding(name, "problem", f"{folder}: {there} is a file", other)
        return
    disk, kind = os.statvfs(there), kind_of_disk(there)
    free = disk.f_bavail * disk.f_frsize / GIB
    seen = f"{folder}{'' if there == folder else ' (not made yet)'}: {free:.1f} GiB free on {kind}"
    if reason := _refusal(there):
        yield Finding(name, "problem", f"{seen}, and {reason}", f"{other}, or make {there} writable: ls -ld {there}")
    elif free < LEAST_GIB or (disk.f_files and not disk.f_favail):
        what = "no file can be added" if free >= LEAST_GIB else f"under {LEAST_GIB:g} GiB"
        yield Finding(name, "problem", f"{seen}: {what}", f"make room (du -xsh {there}/*), or {other}")
    elif lasts and kind in IN_MEMORY:
        yield Finding(name, "warning", f"{seen}, which uses memory and is lost on reboot", f"{other} on a disk")
    elif lasts and free < LOW_GIB:
        remedy = f"make room (du -xsh {there}/*), or {other}; distft.plan shows the size of the state"
        yield Finding(name, "warning", seen, remedy)
    else:
        yield Finding(name, "ok", seen)


def _refusal(folder: Path) -> str | None:
    """Writes, syncs and reads a file of 1 MiB in `folder`; returns why that failed, or None."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".distft-doctor-") as probe:
            probe.write(os.urandom(_PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
            size = Path(probe.name).stat().st_size
        return None if size == _PROBE_BYTES else f"a file of {_PROBE_BYTES} bytes came back with {size}"
    except OSError as error:
        return f"a file cannot be written there: {error.strerror}"


def kind_of_disk(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Returns the kind of file system that holds `folder`: ext4, nfs4, lustre, tmpfs ..."""
    path, best = folder.resolve(), (-1, "an unknown file system")
    for line in mounts.read_text().splitlines():
        before, _, after = line.partition(" - ")
        mount = Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), before.split()[4]))
        if path.is_relative_to(mount) and len(mount.parts) >= best[0]:  # the later of two mounts wins
            best = (len(mount.parts), after.split()[0])
    return best[1]


_MAIN = ("torch", "deepspeed", "transformers")  # always listed, with version and bounds
_PYPROJECT = PACKAGE.parent / "pyproject.toml"


def bounds(pyproject: Path = _PYPROJECT) -> tuple[str, list[str]]:
    """Returns the Python version that distft requires, and its requirements: `torch>=2.9`."""
    if pyproject.is_file():
        project = tomllib.loads(pyproject.read_text())["project"]
        return project["requires-python"], project["dependencies"]
    about = importlib.metadata.metadata("distft")
    needed = [each for each in importlib.metadata.requires("distft") or [] if "extra ==" not in each]
    return about["Requires-Python"], needed


def check_python(rule: str | None = None) -> Iterator[Finding]:
    """Checks that distft supports this Python version."""
    from packaging.specifiers import SpecifierSet

    rule = rule or bounds()[0]
    version = platform.python_version()
    seen = f"{version} in {sys.executable}"
    if SpecifierSet(rule).contains(version, prereleases=True):
        yield Finding("python", "ok", seen)
    else:
        yield Finding("python", "problem", f"{seen}, distft needs {rule}", f"a Python {rule}, then make venv")


def check_packages(requirements: Sequence[str] | None = None) -> Iterator[Finding]:
    """Finds packages that are missing or outside of their bounds."""
    from packaging.requirements import Requirement

    wrong = []
    needed = [Requirement(each) for each in (bounds()[1] if requirements is None else requirements)]
    for each in needed:
        version = version_of(each.name)
        if version is None or not each.specifier.contains(version, prereleases=True):
            wrong.append(each)
            seen = f"{each.name} {version or 'is missing'}, distft needs {each.specifier}"
            yield Finding("packages", "problem", seen, f"{sys.executable} -m pip install '{each}'")
    if not wrong:
        main = (f"{each.name} {version_of(each.name)} ({each.specifier})" for each in needed if each.name in _MAIN)
        summary = f"all {len(needed)} within the bounds of pyproject.toml"
        yield Finding("packages", "ok", ": ".join(filter(None, (summary, ", ".join(main)))))


def versions() -> dict[str, str | None]:
    """Returns the version of each required package, for comparison with another machine."""
    from packaging.requirements import Requirement

    return {name: version_of(name) for name in sorted(Requirement(each).name for each in bounds()[1])}


_SECONDS_TO_IMPORT = 120  # from a shared disk read by many nodes at once
_OWN_BACKEND = {"cuda": "nccl", "xpu": "xccl"}


def check_torch(devices: Path = Path("/dev")) -> Iterator[Finding]:
    """Checks torch's build, and that it sees the machine's accelerators."""
    try:
        torch: Torch = ask_program("distft.doctor.libraries", "torch", seconds=_SECONDS_TO_IMPORT)
    except Ended as ended:
        yield Finding("torch", "problem", f"cannot be imported: {ended}", "pip install -c constraints.txt torch")
        return
    build = f"CUDA {torch['cuda']}" if torch["cuda"] else f"ROCm {torch['hip']}" if torch["hip"] else "CPU"
    backends = ", ".join(torch["backends"])
    yield Finding("torch", "ok", f"{torch['version']}, built for {build}; collectives: {backends}")
    plugged, seen = num_accelerators(devices), len(torch["devices"])
    driver = driver_version()
    summary = f"{seen} seen by torch ({', '.join(dict.fromkeys(torch['devices']))})" if seen else "none seen by torch"
    summary += f", {plugged} plugged in" * (plugged != seen) + f", driver {driver}" * bool(driver)
    summary += f", NCCL {torch['nccl']}" * bool(torch["nccl"] and seen)
    remedy = "a torch for this machine's driver: https://pytorch.org/get-started/locally, or a newer driver"
    if plugged and not seen:
        yield Finding("accelerator", "problem", f"{summary}, which is built for {build}", remedy)
    elif seen and _OWN_BACKEND.get(torch["kind"] or "", "gloo") not in torch["backends"]:
        yield Finding("accelerator", "problem", f"{summary}, without {_OWN_BACKEND[torch['kind'] or '']}", remedy)
    elif seen < plugged:
        yield Finding(
            "accelerator", "warning", summary, "nvidia-smi, rocm-smi or dmesg show why the others are missing"
        )
    else:
        yield Finding("accelerator", "ok", summary if seen else "none: runs here are on the CPU")


def driver_version() -> str | None:
    """Returns the version of the NVIDIA driver, if nvidia-smi reports one."""
    if not shutil.which("nvidia-smi"):
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.split("\n")[0].strip() or None if done.returncode == 0 else None


def check_deepspeed() -> Iterator[Finding]:
    """Checks which DeepSpeed operators can be used here; zero3_offload needs cpu_adam."""
    try:
        found: DeepSpeed = ask_program("distft.doctor.libraries", "deepspeed", seconds=_SECONDS_TO_IMPORT)
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
        remedy = "another strategy than zero3_offload, or python -m deepspeed.env_report for the reason"
        yield Finding("deepspeed", "warning", seen, remedy)
