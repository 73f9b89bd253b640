"""What a cgroup (a container, a SLURM job) leaves of the machine, which /proc/meminfo does not tell.

Trap: a limit may stand at any folder between the process's own and the root, in version 1 and 2 of cgroups.
"""

from collections.abc import Iterator
from pathlib import Path

_UNLIMITED = 2**60  # version 1 writes the largest multiple of a page instead of `max`


def memory_limit(root: Path = Path("/")) -> tuple[int, int] | None:
    """Returns the tightest memory limit of this process in bytes and what is used of it; None without one."""
    found = []
    for folder in _folders("memory", root):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            number = _number(folder / limit)
            if number is not None and number < _UNLIMITED:
                found.append((number, (_number(folder / used) or 0) - _cached(folder)))
    return min(found, key=lambda each: each[0] - each[1], default=None)


def core_limit(root: Path = Path("/")) -> float | None:
    """Returns how many cores' time this process may use; None without a limit."""
    found = []
    for folder in _folders("cpu", root):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        quota = quota or _text(folder / "cpu.cfs_quota_us")
        period = period or _text(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit():
            found.append(int(quota) / int(period))
    return min(found, default=None)


def _folders(controller: str, root: Path) -> Iterator[Path]:
    """Yields the folders that may hold limits of a controller for this process, its own first.

    Inside a container the path in /proc/self/cgroup is the host's, and the mount is the container's own.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controllers and controller)
        own = mount / path.lstrip("/")
        yield from [each for each in (own, *own.parents) if each.is_relative_to(mount)]


def _cached(folder: Path) -> int:
    """Returns the bytes of files' contents that the kernel would give back: they count as used."""
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
