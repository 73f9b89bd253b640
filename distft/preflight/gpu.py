"""What NVIDIA's tools and the kernel say of a node's GPUs: Xid, ECC, links, diagnostics. Not run on a GPU yet.

The parsers are held against recorded outputs (tests/preflight/recorded, each with its source). A tool that is missing,
forbidden or slow tells nothing; a field that a GPU does not have reads N/A.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SECONDS_TO_ANSWER = 20
_RECENT_SECONDS = 24 * 3600  # an Xid before that was dealt with, or would have come again
# https://docs.nvidia.com/deploy/xid-errors: the hardware's own, after which the GPU must be reset or replaced
_FATAL_XIDS = {48, 64, 74, 79, 92, 95, 119, 120, 140, 143, *range(144, 151)}
_NOTED_XIDS = {63, 94, 154}
_LINK_XIDS = range(144, 151)  # these say Fatal or Nonfatal
_XID = re.compile(r"NVRM: Xid \((?:PCI:)?([\da-fA-F:.]+)\): (\d+),?\s*(.*)")
_OFF_BUS = re.compile(r"NVRM: The NVIDIA GPU ([\da-fA-F:.]+)")
_SINCE_BOOT = re.compile(r"^\[\s*(\d+\.\d+)\]")
_GPU = re.compile(r"^GPU ([\da-fA-F:.]+)")
_LINK_COUNT = re.compile(r"Link (\d+): (Replay|Recovery|CRC) Errors: (\d+)")


@dataclass(frozen=True)
class Trouble:
    """What is wrong with a GPU."""

    gpu: str  # its number, or its place on the bus
    what: str
    is_fatal: bool  # no job belongs on it; otherwise it is worth a look


def kernel_log(text: str, uptime_seconds: float = 0.0) -> Iterator[Trouble]:
    """Yields the hardware's errors in what `dmesg` prints; of those with a time since boot, the last day's."""
    bus = ""
    for line in text.splitlines():
        since = _SINCE_BOOT.match(line)
        if since and uptime_seconds - float(since[1]) > _RECENT_SECONDS:
            continue
        if found := _XID.search(line):
            number, words = int(found[2]), found[3].strip()
            is_fatal = number in _FATAL_XIDS and not (number in _LINK_XIDS and "Nonfatal" in words)
            if is_fatal or number in _NOTED_XIDS or number in _LINK_XIDS:
                yield Trouble(found[1], f"Xid {number}: {words}", is_fatal)
        elif found := _OFF_BUS.search(line):
            bus = found[1]
        elif bus and "fallen off the bus" in line:  # newer drivers tell it in three lines without an Xid
            yield Trouble(bus, "Xid 79: GPU has fallen off the bus", True)
            bus = ""


def memory_errors(text: str) -> Iterator[Trouble]:
    """Yields what `nvidia-smi -q -d ECC,ROW_REMAPPER,PAGE_RETIREMENT` counts since the driver was loaded."""
    for gpu, path, value in _fields(text):
        *sections, name = path
        if "Volatile" in sections and "Uncorrectable" in name and value.isdigit() and int(value):
            yield Trouble(gpu, f"{value} uncorrectable ECC errors ({name})", True)
        elif name == "Remapping Failure Occurred" and value == "Yes":
            yield Trouble(gpu, "a row of its memory could not be remapped", True)
        elif name == "SRAM Threshold Exceeded" and value == "Yes":
            yield Trouble(gpu, "more SRAM errors than its maker allows", True)
        elif (name == "Pending" and "Remapped Rows" in sections and value == "Yes") or (
            name.startswith("Pending Page") and value == "Yes"
        ):
            yield Trouble(gpu, "memory is to be remapped at the next reset of the GPU", False)


def link_errors(text: str) -> Iterator[Trouble]:
    """Yields the links that `nvidia-smi nvlink -e` has seen recover, and those that `nvlink -s` says are down."""
    gpu, links = "", dict[str, list[tuple[str, str]]]()
    for line in text.splitlines():
        if found := re.match(r"GPU (\d+):", line):
            gpu = found[1]
        elif (found := _LINK_COUNT.search(line)) and found[2] == "Recovery" and int(found[3]):
            yield Trouble(gpu, f"NVLink {found[1]} was lost and has recovered {found[3]} times", False)
        elif found := re.search(r"Link (\d+): (<inactive>|[\d.]+ GB/s)", line):
            links.setdefault(gpu, []).append((found[1], found[2]))
    for gpu, states in links.items():
        down = [link for link, state in states if state == "<inactive>"]
        if down and len(down) < len(states):
            yield Trouble(gpu, f"NVLink {', '.join(down)} is down", True)


def diagnosis(text: str) -> Iterator[Trouble]:
    """Yields the tests that `dcgmi diag -r 1 -j` failed; versions 3 and 4 tell them in two forms.

    What fails under Deployment is how the node is set up (persistence mode, say), and is worth a look.
    """
    start = text.find("{")
    try:
        told: Any = json.loads(text[start : text.rfind("}") + 1]) if start >= 0 else {}
    except ValueError:
        return
    of = told.get("DCGM Diagnostic") or told.get("DCGM GPU Diagnostic") or {}
    for category in of.get("test_categories") or []:
        for test in filter(None, category.get("tests") or []):
            for result in test.get("results") or []:
                if result.get("status", "").lower() == "fail":
                    gpu = str(result.get("entity_id", result.get("gpu_id", result.get("gpu_ids", ""))))
                    words = [each["warning"] if isinstance(each, dict) else each for each in _warnings(result)]
                    what = f"DCGM's {test.get('name')} failed" + (f": {words[0]}" if words else "")
                    yield Trouble(gpu, what, category.get("category") != "Deployment")


def troubles() -> list[Trouble]:
    """Returns what this node's own tools say; nothing where there are none."""
    found = []
    if shutil.which("nvidia-smi"):
        found += memory_errors(_said("nvidia-smi", "-q", "-d", "ECC,ROW_REMAPPER,PAGE_RETIREMENT"))
        found += link_errors(_said("nvidia-smi", "nvlink", "-e"))
        found += link_errors(_said("nvidia-smi", "nvlink", "-s"))
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        found += kernel_log(_said("dmesg"), uptime)
    if shutil.which("dcgmi"):
        found += diagnosis(_said("dcgmi", "diag", "-r", "1", "-j"))
    return list(dict.fromkeys(found))


def _warnings(result: dict[str, Any]) -> list[Any]:
    words = result.get("warnings") or []
    return [words] if isinstance(words, str) else words


def _fields(text: str) -> Iterator[tuple[str, list[str], str]]:
    """Yields GPU, path and value of each `name : value` line of an indented report."""
    gpu, above = "", list[tuple[int, str]]()
    for line in text.splitlines():
        if found := _GPU.match(line):
            gpu, above = found[1], []
            continue
        name, colon, value = line.partition(" : ")
        indent, name = len(name) - len(name.lstrip()), name.strip()
        above = [each for each in above if each[0] < indent]
        if colon:
            yield gpu, [*(each[1] for each in above), name], value.strip()
        elif name:
            above.append((indent, name))


def _said(*command: str) -> str:
    """Returns what a program prints, or nothing when it fails to answer in time."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS_TO_ANSWER, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
