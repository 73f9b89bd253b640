"""The largest micro-batch that fits: train.micro_batch_size=auto and train.micro_batch_tokens=auto.

The plan counts weights, gradients, optimizer state and gathered weights. What a forward keeps for its backward is
counted by formula (distft.plan.activations), and kernels may keep more or less. So on an accelerator the OOM probe
right after the first step confirms the choice, and a launch halves it when it did not fit. The update is the same for
any micro-batch.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

AUTO = "auto"
MARGIN = 0.9  # of the memory: the rest is for the allocator, the libraries and the estimate's error
_CHUNK_BYTES, _CHUNK_BYTES_OF_ACCELERATOR = 3 * 64 * 2**20, 3 * 2**30  # logits of a chunk, their gradient and fp32 copy
GIB = 2**30


@dataclass(frozen=True)
class Room:
    """The memory for one process, and what of it the state takes."""

    total: int  # bytes
    state: int  # weights, gradients, optimizer state, gathered weights
    is_accelerator: bool

    @property
    def free(self) -> int:
        """Bytes for activations; negative where the state alone does not fit."""
        chunk = _CHUNK_BYTES_OF_ACCELERATOR if self.is_accelerator else _CHUNK_BYTES
        return int(MARGIN * self.total) - self.state - min(chunk, self.total // 8)


def tokens_that_fit(room: Room, token_bytes: int) -> int:
    return max(0, room.free // token_bytes)


def rows_that_fit(tokens: int, longest: int, rows_per_process: int | None) -> int:
    """Returns the largest micro-batch in rows; it divides the rows of a step per process where that is given.

    tokens: that fit. longest: tokens of the longest row.
    """
    most = max(0, tokens // longest)
    if rows_per_process is None or most == 0:
        return most
    return next(rows for rows in range(min(most, rows_per_process), 0, -1) if rows_per_process % rows == 0)


def device_bytes(processes: int) -> tuple[int, bool] | None:
    """Returns the memory of one process on this machine in bytes, and whether it is an accelerator's.

    processes: of this machine, which share the host's memory where there is no accelerator. None: not known.
    """
    found = _nvidia() or _amd()
    if found:
        return min(found), True
    available = _meminfo(Path("/proc/meminfo"), "MemAvailable")
    return (available // processes, False) if available else None


def too_large(needed: int, processes: int) -> str:
    """Returns why `needed` bytes of state cannot be held by each of the processes of this machine; empty if they can,
    and where its memory is not known."""
    devices = _nvidia() or _amd()
    there = min(devices) if devices else (_meminfo(Path("/proc/meminfo"), "MemTotal") or 0) // processes
    if there == 0 or needed <= there:
        return ""
    whose = "a device has" if devices else f"this machine has for each of {processes} processes"
    return f"weights, gradients and optimizer need {needed / GIB:.1f} GiB, {whose} {there / GIB:.1f}"


def _nvidia() -> list[int]:
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        return [int(line) * 2**20 for line in done.stdout.split() if line.strip()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []


def _amd(system: Path = Path("/sys/class/drm")) -> list[int]:
    sizes = [int(file.read_text()) for file in sorted(system.glob("card*/device/mem_info_vram_total"))]
    return [size for size in sizes if size >= 4 * GIB]  # smaller ones are inside a CPU


def _meminfo(file: Path, name: str) -> int | None:
    """Returns bytes of a line of /proc/meminfo; None without it."""
    if not file.is_file():
        return None
    lines = dict(line.split(":", 1) for line in file.read_text().splitlines() if ":" in line)
    return 1024 * int(lines[name].split()[0]) if name in lines else None
