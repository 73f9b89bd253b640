"""Names of benchmark tasks: those that distft brings, those of a folder, and those of an installed lm-eval.

Nothing here imports lm-eval.
"""

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from distft.config.errors import did_you_mean, nearest
from distft.paths import absolute

_READY = Path(__file__).parents[1] / "evaluate" / "tasks"
_OF_A_TASK = ("task", "group", "tag")  # keys whose value is a name


def ready_names() -> list[str]:
    """Returns the names of the tasks that need no file of one's own."""
    return sorted(file.stem for file in _READY.glob("*.yaml"))


def own_tasks(folder: Path) -> list[str]:
    """Returns the names of the tasks and groups in the YAML files of a folder."""
    found = []
    for file in sorted(folder.rglob("*.yaml")):
        for line in file.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key in _OF_A_TASK and value.strip() and not value.strip().startswith("["):
                found.append(value.strip().strip("'\""))
    return found


def wrong_benchmarks(names: Sequence[str], folder: str | None, key: str, folder_key: str) -> list[str]:
    """Returns a message for each name that is no task, for a folder without tasks, and where lm-eval is missing.

    folder: with YAML tasks, under `folder_key`. key: under which the names are.
    """
    if not names:
        return []
    if find_spec("lm_eval") is None:
        return [f"{key}=[{','.join(names)}]: lm-eval is not installed. Try: pip install 'distft[eval]'"]
    errors: list[str] = []
    own = own_tasks(absolute(folder)) if folder is not None else []
    if folder is not None and not own:
        errors.append(f"{folder_key}={folder}: has no YAML file with a task. Try: a folder of such files")
    known = [*own, *ready_names()]
    return errors + [
        f"{key}: there is no task {name}.{did_you_mean(nearest(name, known))} Allowed: {', '.join(known)}, and "
        "those of `lm-eval ls tasks`"
        for name in unknown_tasks([name for name in names if name not in known])
    ]


def unknown_tasks(names: Sequence[str]) -> list[str]:
    """Returns the names that no task file of lm-eval holds as a word.

    Its own index parses all 14,000 files, which takes 20 s; reading them takes one.
    """
    waiting = {name: re.compile(rb"(?<![\w.-])" + re.escape(name.encode()) + rb"(?![\w.-])") for name in names}
    spec = find_spec("lm_eval") if names else None
    folders = [Path(folder) / "tasks" for folder in (spec.submodule_search_locations or ())] if spec else []
    for file in (file for folder in folders for file in folder.rglob("*")):
        if waiting and file.suffix not in (".py", ".md") and file.is_file():
            content = file.read_bytes()
            waiting = {name: word for name, word in waiting.items() if not word.search(content)}
    return list(waiting)
