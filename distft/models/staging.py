"""Copies of a model and of prepared rows on a node's own disk: made by one process of the node, used by all, kept.

A copy is named by what it is of: the folder, and name, size and time of each of its files. It appears by one rename,
so a copy that was cut off never counts. Whoever gets the lock first copies, and the others wait for the lock: not in
a collective, which would time out. Copies in $SLURM_TMPDIR go with the job; elsewhere they stay for the next run.
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

_SECONDS_BETWEEN_LOOKS = 0.2  # of those that wait for a copy
File = tuple[str, int, int]  # name, bytes, time of the last change


def stage(plan: Plan, where: str, stage_dir: str | None, world: World) -> Plan:
    """Returns the plan with model and rows on this node's disk, where launcher.stage asks for that.

    Rank 0 alone looks at what there is to copy. RuntimeError when it does not fit.
    """
    if where == "none":
        return plan
    told: Any = None
    if world.is_first:
        told = [_described(plan.model_dir, _model_files), _described(plan.data_dir, _row_files)]
    model, rows = json.loads(from_first(json.dumps(told), world))
    root = _own_dir(stage_dir or os.environ.get("SLURM_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")
    return replace(
        plan,
        model_dir=str(copied(Path(model[0]), model[1], root)) if model else None,
        data_dir=str(copied(Path(rows[0]), rows[1], root)) if rows else None,
    )


def copied(source: Path, files: Sequence[File], root: Path) -> Path:
    """Returns the folder in `root` with whole copies of the files of `source`, made now if it is not there."""
    key = hashlib.sha256(json.dumps([str(source), files]).encode()).hexdigest()[:32]
    folder, beside = root / key, root / f".{key}.part"
    with (root / f".{key}.lock").open("w") as lock:
        _wait_for(lock.fileno(), beside)
        if not _is_whole(folder, files):
            for left in (beside, folder):  # of a copy that was cut off; or of one that lost old files to a cleaner
                shutil.rmtree(left, ignore_errors=True)
            _check_room(source, files, root)
            beside.mkdir()
            for file in files:
                _copy(source, file, beside)
            sync(beside)
            os.replace(beside, folder)
            sync(root)
    return folder


def _wait_for(lock: int, copy: Path) -> None:
    """Returns when this process has the lock; tells that it is alive while another's copy grows, and no longer."""
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
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def _bytes_in(folder: Path) -> int:
    try:
        return sum(file.stat().st_size for file in folder.iterdir())
    except OSError:  # not begun, or just renamed
        return 0


def _described(folder: str | None, names: Callable[[Path], list[str]]) -> tuple[str, list[File]] | None:
    if folder is None:
        return None
    source = Path(folder).resolve()
    status = {name: (source / name).stat() for name in names(source)}
    return str(source), [(name, each.st_size, each.st_mtime_ns) for name, each in status.items()]


def _model_files(folder: Path) -> list[str]:
    return ["config.json", *([INDEX] if (folder / INDEX).is_file() else []), *weight_files(folder)]


def _row_files(folder: Path) -> list[str]:
    return [MANIFEST, *(name for names in read_json(folder / MANIFEST)["files"].values() for name in names)]


def _own_dir(stage_dir: str) -> Path:
    """Returns this user's folder there; RuntimeError when it is another's, who could put other weights into it."""
    root = Path(stage_dir).expanduser() / f"distft-{os.getuid()}"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if root.is_symlink() or root.stat().st_uid != os.getuid():
        raise RuntimeError(f"{root} on {socket.gethostname()} is not yours. Try: another launcher.stage_dir")
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
            f"takes {needed / 2**30:.2f} GiB. Try: another launcher.stage_dir, or launcher.stage=none"
        )


def _copy(source: Path, file: File, into: Path) -> None:
    """Copies in requests of BLOCK; RuntimeError when the file is not the one that was looked at."""
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
                f"{source / name} had {size} bytes and now has {copy.tell()}: it changes while it is used"
            )
