"""Small data for tests: prepared rows of random tokens with unequal lengths and target counts, and rows of text."""

import json
from pathlib import Path

import numpy as np

from distft.data.shards import Row, Rows, ShardWriter, TopK


def write_rows(folder: Path, train: int = 40, held_out: int = 31, vocab: int = 256, seed: int = 0) -> Path:
    """Writes `train` and `held_out` rows of 4 to 24 tokens, of which the last 1 to all are trained."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for split, count in (("train", train), ("eval", held_out)):
        writer = ShardWriter(folder, split)
        for i in range(count):
            length = int(random.integers(4, 24))
            trained = np.arange(length) >= length - int(random.integers(1, length))
            writer.add(Row(random.integers(0, vocab, length).astype(np.int32), trained), f"{split}-{i}")
        writer.close()
    return folder


def write_sums(folder: Path, rows: int = 40) -> Path:
    """Writes FOLDER/rows.jsonl with prompts and completions; returns the folder."""
    texts = [{"prompt": f"{number} and {number} is", "completion": str(2 * number)} for number in range(rows)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    return folder


def reference_file(folder: Path, split: str) -> Path:
    """Returns the file with log-probabilities of the frozen base for the rows of a split, if a test writes one."""
    return folder / f"reference-{split}.npy"


def teacher_file(folder: Path, split: str) -> Path:
    """Returns the file with a teacher's distributions at the targets of a split, if a test writes one."""
    return folder / f"teacher-{split}.npz"


def open_rows(folder: Path, split: str, class_weights: list[float] | None = None) -> Rows:
    """Opens rows, with the numbers of a reference and of a teacher where they exist."""
    rows, file = Rows(folder, split, class_weights=class_weights), reference_file(folder, split)
    rows = rows.with_reference(np.load(file)) if file.is_file() else rows
    if not (taught := teacher_file(folder, split)).is_file():
        return rows
    stored, starts = dict(np.load(taught)), np.concatenate([[0], np.cumsum(rows.num_targets)])
    return rows.with_teacher(
        lambda i: TopK(*(stored[name][starts[i] : starts[i + 1]] for name in ("ids", "log_probabilities")))
    )
