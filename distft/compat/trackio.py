"""Trackio, an optional package: a run without `trackio.init`, which prints, and finishes the process's earlier run.

A process can have several runs this way, as a sweep needs. Trap: Trackio adds rows of a step that it has already, so
the run's rows are deleted first, and the caller logs them all again.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

PACKAGE = "trackio"
SEEN = "trackio 0.43.0"


def is_installed() -> bool:
    return find_spec(PACKAGE) is not None


def open_record(project: str, name: str, run_id: str, config: Mapping[str, Any]) -> Any:
    """Returns an empty trackio.Run in the local store, in place of one with the same id.

    The store is ~/.cache/huggingface/trackio, or the folder that TRACKIO_DIR names.
    """
    from trackio import run as module
    from trackio.sqlite_storage import SQLiteStorage

    module.print = _print_nothing  # pyright: ignore[reportAttributeAccessIssue]  # `finish` asks to wait
    SQLiteStorage.delete_run(project, name, run_id=run_id)
    settings = {key: value for key, value in config.items() if not key.startswith("_")}
    return module.Run(
        None, project, None, name=name, run_id=run_id, config=settings, existing_runs=[], auto_log_gpu=False
    )


def _print_nothing(*args: object, **options: object) -> None:
    """Stands in for print."""
