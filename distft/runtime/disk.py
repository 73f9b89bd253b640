"""What of a disk survives a loss of power."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Returns when a file's bytes, or a folder's names, would survive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
