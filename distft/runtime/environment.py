"""The recorded environment of a run, without secrets.

Variables are recorded by an allow-list of names, and values that look like secrets are redacted.
"""

import importlib.metadata
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

_RECORDED = re.compile(
    r"(CUDA|HIP|ROCR|NCCL|RCCL|GLOO|TORCH|PYTORCH|TORCHINDUCTOR|TRITON|DS|DEEPSPEED|OMP|MKL|KMP|GOMP|SLURM|HF|HUGGINGFACE"
    r"|TRANSFORMERS|DATASETS|TOKENIZERS|WANDB|FI|UCX|MALLOC|THP)_\w+|GLIBC_TUNABLES"
    r"|LD_LIBRARY_PATH|LD_PRELOAD|LANG|LC_ALL|PYTHONPATH|PYTHONHASHSEED|VIRTUAL_ENV|CONDA_PREFIX|MASTER_ADDR|MASTER_PORT"
)
_OF_A_SHELL = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|TERM|TZ|TMPDIR|LC_\w+|MODULEPATH|MODULESHOME|LMOD_\w+|SSL_CERT_(FILE|DIR)|XDG_CACHE_HOME"
)
_OF_THIS_MACHINE = re.compile(r"SLURM_(?!CONF$)\w+|(CUDA|HIP|ROCR)_VISIBLE_DEVICES|MASTER_(ADDR|PORT)|TORCHELASTIC_\w+")
_UNITS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")  # of CPUs; fp32 products differ by a factor of three in speed
_SECRET_WORDS = {
    "TOKEN",
    "KEY",
    "APIKEY",
    "SECRET",
    "PASSWORD",
    "PASSWD",
    "PASS",
    "CREDENTIAL",
    "CREDENTIALS",
    "AUTH",
    "COOKIE",
}
_IN_URL = re.compile(r"(?<=://)[^/\s@]+@")
_SHAPES = re.compile(  # of tokens that are recognized by their prefix
    r"hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|(AKIA|ASIA)[A-Z0-9]{16}"
    r"|sk-[A-Za-z0-9_-]{20,}|xox[abeoprs]-[\w-]{10,}|AIza[\w-]{30,}|ya29\.[\w-]{20,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{5,}"
)
_NAMED = re.compile(  # Bearer TOKEN, api_key=..., "password": "..."
    r"(?i)(\b(?:bearer|basic)\s+|\b[\w-]*(?:api_?key|access_?key|secret|password|passwd|token)[\"']?\s*[=:]\s*[\"']?)"
    r"(?=[^\s\"',;]*\d)[^\s\"',;]{12,}"
)
_SHORTEST_SECRET = 8  # redacting shorter values would garble ordinary text


def looks_secret(name: str) -> bool:
    """Returns whether the name of a variable means a secret: HF_TOKEN does, NUM_MEMORY_TOKENS does not."""
    return not _SECRET_WORDS.isdisjoint(re.split(r"[^A-Z0-9]+", name.upper()))


def secrets(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Returns the environment variables that look secret, with values too long to be ordinary text."""
    return {name: value for name, value in variables.items() if looks_secret(name) and len(value) >= _SHORTEST_SECRET}


def passed_on(variables: Mapping[str, str] = os.environ) -> list[str]:
    """Returns the names of the variables that a job on another machine inherits: an allow-list without secrets."""
    return [
        name
        for name in variables
        if (_OF_A_SHELL.fullmatch(name) or _RECORDED.fullmatch(name))
        and not (_OF_THIS_MACHINE.fullmatch(name) or looks_secret(name))
    ]


def redact(text: str, variables: Mapping[str, str] = os.environ) -> str:
    """Redacts values of secret variables, passwords in URLs, and tokens recognized by their shape."""
    for name, value in sorted(secrets(variables).items(), key=lambda item: -len(item[1])):
        text = text.replace(value, f"<{name}>")
    return _NAMED.sub(r"\1***", _SHAPES.sub("***", _IN_URL.sub("***@", text)))


def has_secret(text: str) -> bool:
    """Returns whether a text contains something like a token, or a URL with a password."""
    return bool(_SHAPES.search(text) or _IN_URL.search(text))


class Commit(TypedDict):
    """The commit of a checkout, and whether tracked files have changes."""

    commit: str
    changed: bool


class Hardware(TypedDict):
    """A node's hardware. accelerators: name, memory and driver of each, as nvidia-smi prints them."""

    cpu: str
    cores: int | None
    memory_gib: float
    accelerators: list[str]


class Environment(TypedDict):
    """What environment.json records."""

    time: str
    host: str
    platform: str
    python: str
    packages: dict[str, str]
    git: Commit | None
    hardware: Hardware
    variables: dict[str, str]


def describe(variables: Mapping[str, str] = os.environ) -> Environment:
    """Returns machine, packages, commit and the variables that affect a run, without secrets."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": sys.version.split()[0],
        "packages": packages(),
        "git": code_of(),
        "hardware": _hardware(),
        "variables": recorded(variables),
    }


def recorded(variables: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables that affect a run, with secrets redacted."""
    return {
        name: "***" if looks_secret(name) else redact(value, variables)
        for name, value in sorted(variables.items())
        if _RECORDED.fullmatch(name)
    }


def packages() -> dict[str, str]:
    """Returns the version of every installed package."""
    all_metadata = (each.metadata for each in importlib.metadata.distributions())
    found = {each["Name"]: each["Version"] for each in all_metadata}
    return dict(sorted((name, version) for name, version in found.items() if name))


def code_of() -> Commit | None:
    """Returns the commit of this code, and whether the checkout has changes; None outside of a checkout."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists() or shutil.which("git") is None:
        return None
    commit = _output("git", "-C", str(folder), "rev-parse", "HEAD")
    changed = _output("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "changed": bool(changed)} if commit else None


def _hardware() -> Hardware:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    query = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    accelerators = _output(*query) if shutil.which("nvidia-smi") else ""
    return {
        "cpu": _cpu_name(),
        "cores": cores,
        "memory_gib": round(memory, 1),
        "accelerators": accelerators.splitlines(),
    }


def _cpu_name() -> str:
    """Returns the name of the CPU and its usable vector and matrix extensions."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.is_file() else ""
    names = re.findall(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.findall(r"^flags\s*:\s*(.+)$", text, re.MULTILINE)
    units = [unit for unit in _UNITS if flags and unit in flags[0].split()]
    return (names[0] if names else platform.processor()) + (f" ({', '.join(units)})" if units else "")


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
