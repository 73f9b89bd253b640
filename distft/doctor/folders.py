"""Folders that a run writes to: there, writable, with room, and on what kind of disk."""

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from distft.doctor.finding import Finding
from distft.doctor.machine import GIB

LOW_GIB, LEAST_GIB = 20.0, 1.0
IN_MEMORY = ("tmpfs", "ramfs")
_PROBE_BYTES = 2**20


def check_folder(name: str, folder: Path, *, lasts: bool = True) -> Iterator[Finding]:
    """Finds whether a folder, or the one that it would be made in, takes a file; `lasts`: what it holds must stay."""
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
        yield Finding(name, "warning", f"{seen}, which a reboot empties and which takes memory", f"{other} on a disk")
    elif lasts and free < LOW_GIB:
        remedy = f"make room (du -xsh {there}/*), or {other}; distft.plan tells the size of the state"
        yield Finding(name, "warning", seen, remedy)
    else:
        yield Finding(name, "ok", seen)


def _refusal(folder: Path) -> str | None:
    """Returns why a file of a mebibyte cannot be written in `folder`, read again, or synced; None when it can."""
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
        if path.is_relative_to(mount) and len(mount.parts) >= best[0]:  # of two at one place the later one counts
            best = (len(mount.parts), after.split()[0])
    return best[1]
