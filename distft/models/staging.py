"""Node-local staging: one rank of a node copies model and rows to its local disk, and all ranks of the node use them.

A copy's name is a hash of the source folder and of the name, size and mtime of each file. It is published by one
rename, so an interrupted copy is never used. The first rank that gets the lock copies; the others wait for the lock,
not in a collective, which would time out. Copies in $SLURM_TMPDIR end with the job; others remain for the next run.
"""

import fcntl
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distft.data.shards import MANIFEST
from distft.run import Plan, read_json
from distft.runtime import heartbeat
from distft.runtime.disk import sync
from distft.runtime.process_group import World, from_first
from distft.tensors.integrity import BLOCK
from distft.tensors.weight_files import INDEX, weight_files

_POLL_SECONDS = 0.2  # between attempts to get the lock
File = tuple[str, int, int]  # name, bytes, time of the last change


def stage(plan: Plan, where: str, stage_dir: str | None, world: World) -> Plan:
    """Returns the plan with the paths of node-local copies, where launcher.stage is node_local.

    Rank 0 alone lists the source files. Raises RuntimeError when the copies do not fit on the disk.
    """
    if where == "none":
        return plan
    listings: Any = None
    if world.is_first:
        listings = [_listing(plan.model_dir, _model_files), _listing(plan.data_dir, _row_files)]
    model, rows = json.loads(from_first(json.dumps(listings), world))
    root = _user_dir(stage_dir or os.environ.get("SLURM_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")
    return replace(
        plan,
        model_dir=str(copy_once(Path(model[0]), model[1], root)) if model else None,
        data_dir=str(copy_once(Path(rows[0]), rows[1], root)) if rows else None,
    )


def copy_once(source: Path, files: Sequence[File], root: Path) -> Path:
    """Returns the folder in `root` with complete copies of the files of `source`, copied unless it exists."""
    key = hashlib.sha256(json.dumps([str(source), files]).encode()).hexdigest()[:32]
    folder, partial = root / key, root / f".{key}.part"
    with (root / f".{key}.lock").open("w") as lock:
        _wait_for(lock.fileno(), partial)
        if not _is_whole(folder, files):
            for left in (partial, folder):  # an interrupted copy, or one that lost files to a tmp cleaner
                shutil.rmtree(left, ignore_errors=True)
            _check_room(source, files, root)
            partial.mkdir()
            for file in files:
                _copy(source, file, partial)
            sync(partial)
            os.replace(partial, folder)
            sync(root)
    return folder


def _wait_for(lock: int, copy: Path) -> None:
    """Waits for the lock; sends heartbeats only while the other process's copy grows."""
    seen = -1
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            size = _bytes_in(copy)
            if size != seen:
                heartbeat.beat()
            seen = size
            time.sleep(_POLL_SECONDS)


def _bytes_in(folder: Path) -> int:
    try:
        return sum(file.stat().st_size for file in folder.iterdir())
    except OSError:  # not started, or just renamed
        return 0


def _listing(folder: str | None, names: Callable[[Path], list[str]]) -> tuple[str, list[File]] | None:
    if folder is None:
        return None
    source = Path(folder).resolve()
    status = {name: (source / name).stat() for name in names(source)}
    return str(source), [(name, each.st_size, each.st_mtime_ns) for name, each in status.items()]


def _model_files(folder: Path) -> list[str]:
    return ["config.json", *([INDEX] if (folder / INDEX).is_file() else []), *weight_files(folder)]


def _row_files(folder: Path) -> list[str]:
    return [MANIFEST, *(name for names in read_json(folder / MANIFEST)["files"].values() for name in names)]


def _user_dir(stage_dir: str) -> Path:
    """Returns this user's folder in `stage_dir`; raises RuntimeError when another user owns it."""
    root = Path(stage_dir).expanduser() / f"distft-{os.getuid()}"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if root.is_symlink() or root.stat().st_uid != os.getuid():
        raise RuntimeError(f"{root} on {socket.gethostname()} belongs to another user. Try: another launcher.stage_dir")
    return root


def _is_whole(folder: Path, files: Sequence[File]) -> bool:
    try:
        return all((folder / name).stat().st_size == size for name, size, _ in files)
    except FileNotFoundError:
        return False


def _check_room(source: Path, files: Sequence[File], root: Path) -> None:
    needed, free = sum(size for _, size, _ in files), shutil.disk_usage(root).free
    if needed > free:
        raise RuntimeError(
            f"launcher.stage=node_local: {root} on {socket.gethostname()} has {free / 2**30:.2f} GiB free, {source} "
            f"needs {needed / 2**30:.2f} GiB. Try: another launcher.stage_dir, or launcher.stage=none"
        )


def _copy(source: Path, file: File, into: Path) -> None:
    """Copies a file in reads of BLOCK bytes; raises RuntimeError when its size has changed since it was listed."""
    name, size, _ = file
    with (source / name).open("rb", buffering=0) as given, (into / name).open("wb", buffering=0) as copy:
        while block := given.read(BLOCK):
            heartbeat.beat()
            rest = memoryview(block)
            while rest:
                rest = rest[copy.write(rest) :]
        os.fsync(copy.fileno())
        if copy.tell() != size:
            raise RuntimeError(
                f"{source / name} had {size} bytes and now has {copy.tell()}: it changed during the copy"
            )
