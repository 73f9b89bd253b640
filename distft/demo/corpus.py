"""Demo corpus: converts the ChatterBot corpus to prompt-completion rows.

Trap: the corpus has many duplicates (one file has 1,050 conversations, few of them distinct), so held-out rows would
occur in training. One row per question is kept.
"""

import json
import os
import zipfile
from pathlib import Path

import yaml

LOCK = Path(__file__).with_name("demo.lock")


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
