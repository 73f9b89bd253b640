"""Rows similar to an earlier one: MinHash finds candidates, exact Jaccard similarity of their word runs decides.

20 bands of 6 hashes find a pair of similarity 0.8 with probability 0.998. Every row that is found has a verified
similar row that stays, so chains of small changes do not remove distant rows.
Trap: one band of a frequent template may hold most rows; each is compared with a bounded number of others in it.
Source: Broder, On the resemblance and containment of documents, 1997; Lee et al., Deduplicating Training Data, 2022.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from distft.data.cleaning.contract import Columns
from distft.data.cleaning.view import View, ngram_hashes
from distft.runtime.determinism import splitmix64

VERSION = 1
NEEDS = ("rensa",)
BANDS, PER_BAND = 20, 6
_SEED = 1
_SHORT_ANSWER = 5  # words: another label for a similar prompt makes another row
_COMPARED = 16  # others of a band that a row is compared with: the first and the nearest before it, half each


@dataclass(frozen=True)
class Rule:
    parts: Sequence[str] = field(default=("pair",))
    threshold: float = 0.8
    ngram: int = 5

    def sign(self, views: Sequence[View]) -> Columns:
        columns: dict[str, np.ndarray] = {}
        for part in self.parts:
            runs = [np.unique(ngram_hashes(view.hashes(part), self.ngram)) for view in views]
            counts = np.array([len(each) for each in runs], dtype=np.int32)
            columns[f"{part}_bands"] = bands_of(runs)
            columns[f"{part}_runs"] = np.concatenate(runs) if runs else np.zeros(0, dtype=np.uint64)
            columns[f"{part}_runs_count"] = counts
        return columns | {"short_answer": np.array([_short_answer(view) for view in views], dtype=np.uint64)}

    def compare(self, signatures: Columns, alive: np.ndarray) -> Iterator[tuple[int, int | None, str]]:
        alive = alive.copy()
        for part in self.parts:
            counts = signatures[f"{part}_runs_count"]
            offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
            rows = np.flatnonzero(alive & (counts > 0))
            runs = signatures[f"{part}_runs"]
            short = signatures["short_answer"] if part == "pair" else np.zeros(len(alive), dtype=np.uint64)
            for row, others in _by_row(_candidates(signatures[f"{part}_bands"], rows)):
                mine = runs[offsets[row] : offsets[row + 1]]
                for other in others:
                    if not alive[other] or short[row] != short[other]:
                        continue
                    similarity = jaccard(mine, runs[offsets[other] : offsets[other + 1]], self.threshold)
                    if similarity >= self.threshold:
                        alive[row] = False
                        yield row, other, f"its {part} is similar to that of {{other}} (Jaccard {similarity:.2f})"
                        break


def _short_answer(view: View) -> int:
    """Returns a hash of a short answer to a prompt; 0 for others."""
    is_short = bool(view.prompt) and len(view.words("answer")) <= _SHORT_ANSWER
    return view.identity("answer") if is_short else 0


def bands_of(runs: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the hash of each band of each row's MinHash, uint32 [rows, BANDS]; runs: uint64, of each row."""
    from rensa import RMinHash  # type: ignore[attr-defined]  # a compiled module without stubs

    offsets = np.concatenate([[0], np.cumsum([len(each) for each in runs])]).astype(np.uint64)
    flat = np.concatenate(runs) if len(runs) else np.zeros(0, dtype=np.uint64)
    digests = RMinHash.digest_matrix_from_flat_token_hashes(flat, offsets, BANDS * PER_BAND, _SEED)
    hashes = np.array(digests.to_rows(), dtype=np.uint64).reshape(len(runs), BANDS, PER_BAND)
    mixed = np.zeros((len(runs), BANDS), dtype=np.uint64)
    for column in range(PER_BAND):
        mixed = splitmix64(mixed + hashes[:, :, column] + np.uint64(1))
    return (mixed >> np.uint64(32)).astype(np.uint32)


def jaccard(one: np.ndarray, other: np.ndarray, threshold: float = 0.0) -> float:
    """Returns the Jaccard similarity of two sorted arrays of distinct hashes; 0 where sizes rule `threshold` out."""
    smaller, larger = sorted((len(one), len(other)))
    if smaller < threshold * larger:
        return 0.0
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)


def _candidates(bands: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns pairs (row << 32 | earlier row), sorted and each once, that agree in a band. uint64 [pairs]"""
    found = []
    for band in range(bands.shape[1]) if len(rows) > 1 else ():
        hashes = np.asarray(bands[:, band])[rows]
        order = np.argsort(hashes, kind="stable")  # rows stay in order within a bucket
        sizes = np.diff(np.flatnonzero(np.concatenate([[True], hashes[order][1:] != hashes[order][:-1], [True]])))
        keep = np.repeat(sizes > 1, sizes)
        members, sizes = rows[order[keep]].astype(np.uint64), sizes[sizes > 1]
        place = np.arange(len(members)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # in its bucket
        first = np.arange(len(members)) - place
        for step in range(1, _COMPARED // 2 + 1):
            near = place >= step
            found.append((members[near] << np.uint64(32)) | members[np.flatnonzero(near) - step])
            far = place >= step + _COMPARED // 2
            found.append((members[far] << np.uint64(32)) | members[first[far] + step - 1])
    return np.unique(np.concatenate(found)) if found else np.zeros(0, dtype=np.uint64)


def _by_row(pairs: np.ndarray) -> Iterator[tuple[int, list[int]]]:
    """Yields each row, in order, with its earlier candidates, in order."""
    rows = (pairs >> np.uint64(32)).astype(np.int64)
    others = (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)
    borders = np.flatnonzero(np.diff(rows)) + 1
    starts, ends = np.concatenate([[0], borders]), np.append(borders, len(rows))
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        if end > start:
            yield int(rows[start]), others[start:end].tolist()
