"""What a measurement belongs to: the code that was measured, and a short name for a set of settings."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

from distft.runtime.environment import code_of

_CHECKOUT = Path(__file__).resolve().parents[1]
_MEASURED = ("distft", "conf", "benchmarks", "constraints.txt")


def code() -> str:
    """Returns the commit, and a hash of what was changed since in the code that is measured; '' outside of git."""
    found = code_of()
    if found is None:
        return ""
    if not found["changed"]:
        return found["commit"]
    command = ["git", "-C", str(_CHECKOUT), "diff", "HEAD", "--", *_MEASURED, ":(exclude)benchmarks/results"]
    changes = subprocess.run(command, capture_output=True, check=False).stdout
    return f"{found['commit']}+{hashlib.sha256(changes).hexdigest()[:8]}" if changes else found["commit"]


def digest(settings: Any) -> str:
    """Returns a name for settings that can be written as JSON: equal settings have equal names."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]
