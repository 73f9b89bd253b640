"""Labels that a model of the text contradicts: confident learning on out-of-fold probabilities.

The rows are divided into folds by their text, so that equal texts are in one fold. A logistic regression on hashed
TF-IDF of words and characters, trained on the other folds, gives each row the probability of every label. Confident
learning decides from these how many labels of each class are wrong, and which.
Traps: near duplicates in another fold support a wrong label. Where the model is hardly better than the most common
label, what it contradicts are its own errors, so nothing is found.
Source: Northcutt, Jiang and Chuang, Confident Learning, JAIR 2021; `cleanlab` is their implementation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from distft.data.cleaning.contract import Columns
from distft.data.cleaning.view import View, ngram_hashes

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

VERSION = 1
NEEDS = ("sklearn", "cleanlab")
_BITS = 18  # of a feature's number; the bits above count how often it occurs in the row
_MOST_TIMES = 2 ** (32 - _BITS) - 1
_WORD_RUNS, _CHARACTER_RUNS = (1, 2), (2, 3, 4, 5)
_WORDS, _CHARACTERS = 1_000, 300  # at the start of a text, of whose runs features are made
_MIN_TEXTS = 10  # different texts of a class; a class with fewer is not judged
_FITTED_ROWS = 50_000  # that a model is trained on at most, to bound time and memory
_BATCH = 8_192  # rows whose features are in memory as a matrix, at prediction
_SEED = 0  # of the solver's order of rows
_STRENGTH = 10.0  # inverse regularization of the logistic regression


@dataclass(frozen=True)
class Rule:
    threshold: float = 0.5
    folds: int = 5

    def sign(self, views: Sequence[View]) -> Columns:
        features = [_features(view) for view in views]
        labels = [np.frombuffer(_label(view).encode(errors="surrogatepass"), dtype=np.uint8) for view in views]
        return {
            "text": np.array([view.identity("pair") for view in views], dtype=np.uint64),
            "features": np.concatenate(features) if features else np.zeros(0, np.uint32),
            "features_count": np.array([len(each) for each in features], dtype=np.int32),
            "label": np.concatenate(labels) if labels else np.zeros(0, np.uint8),
            "label_count": np.array([len(each) for each in labels], dtype=np.int32),
        }

    def compare(self, signatures: Columns, alive: np.ndarray) -> Iterator[tuple[int, int | None, str] | str]:
        """Yields a remark on the model first, then the rows."""
        rows = np.flatnonzero(alive & (signatures["text"] != 0))
        names, given = np.unique(_texts(signatures["label"], signatures["label_count"], rows), return_inverse=True)
        folds = (signatures["text"][rows] % np.uint64(self.folds)).astype(np.int64)
        judged = np.isin(given, _large_classes(given, signatures["text"][rows], folds))
        rows, folds = rows[judged], folds[judged]
        classes, given = np.unique(given[judged], return_inverse=True)
        names = names[classes]
        if len(names) < 2:
            yield f"clean.label_noise: fewer than two labels have {_MIN_TEXTS} different texts, so no row was judged"
            return
        probabilities = self._out_of_fold(signatures, rows, given, folds)
        likely = probabilities.argmax(axis=1)
        right, common = float(np.mean(likely == given)), float(np.bincount(given).max() / len(given))
        found = f"clean.label_noise: a linear model of the text finds the label of {right:.1%} of the rows"
        if right <= common + 2 * np.sqrt(common * (1 - common) / len(given)):
            yield f"{found}, no more than the most common label ({common:.1%}), so no row was judged"
            return
        yield f"{found} ({common:.1%} have the most common one)"
        wrong = _confident_errors(given, probabilities) & (likely != given)
        for i in np.flatnonzero(wrong & (probabilities[np.arange(len(rows)), likely] >= self.threshold)):
            more, less = probabilities[i, likely[i]], probabilities[i, given[i]]
            yield (
                int(rows[i]),
                None,
                f"the label is {names[given[i]]}, {names[likely[i]]} is more likely ({more:.2f} to {less:.2f})",
            )

    def _out_of_fold(self, signatures: Columns, rows: np.ndarray, given: np.ndarray, folds: np.ndarray) -> np.ndarray:
        """Returns the probability of each class for each row, by a model of the other folds. float64 [rows, classes]"""
        ends = np.cumsum(signatures["features_count"], dtype=np.int64)
        probabilities = np.zeros((len(rows), int(given.max()) + 1))
        for fold in range(self.folds):
            others, held_out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            if not len(held_out):
                continue
            others = _spread(others, given[others], signatures["text"][rows[others]])
            model = _model()
            model.fit(_matrix(signatures, ends, rows[others]), given[others])
            for start in range(0, len(held_out), _BATCH):
                some = held_out[start : start + _BATCH]
                probabilities[some] = model.predict_proba(_matrix(signatures, ends, rows[some]))
        return probabilities


def _features(view: View) -> np.ndarray:
    """Returns the features of a text and how often each occurs, uint32 [features]: number, and count above _BITS."""
    text = f" {' '.join(view.words('pair'))} "[:_CHARACTERS]
    characters = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32).astype(np.uint64)
    runs = [ngram_hashes(view.hashes("pair")[:_WORDS], size) for size in _WORD_RUNS]
    runs += [ngram_hashes(characters, size) for size in _CHARACTER_RUNS]
    numbers, times = np.unique(np.concatenate(runs) >> np.uint64(64 - _BITS), return_counts=True)
    return numbers.astype(np.uint32) | (np.minimum(times, _MOST_TIMES).astype(np.uint32) << np.uint32(_BITS))


def _label(view: View) -> str:
    """Returns the name of a row's class; raises ValueError for a row with several."""
    if isinstance(view.label, tuple):
        raise ValueError(
            f"clean.label_noise.enabled=true: {view.source}:{view.line} has a list of labels, and the rule judges one "
            "class per row. Try: clean.label_noise=false"
        )
    return str(view.label)


def _texts(flat: np.ndarray, counts: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns the text of each row, from the UTF-8 of all."""
    content, ends = flat.tobytes(), np.cumsum(counts, dtype=np.int64)
    return np.array([content[ends[row] - counts[row] : ends[row]].decode(errors="surrogatepass") for row in rows])


def _large_classes(given: np.ndarray, texts: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Returns the classes with enough different texts, in two folds at least: so every model knows them."""
    different = np.unique(np.stack([given.astype(np.uint64), texts, folds.astype(np.uint64)], axis=1), axis=0)
    in_folds = np.unique(different[:, [0, 2]], axis=0)[:, 0]
    counts, num_folds = (np.bincount(each.astype(np.int64)) for each in (different[:, 0], in_folds))
    return np.flatnonzero((counts >= _MIN_TEXTS) & (num_folds >= 2))


def _spread(rows: np.ndarray, given: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Returns at most _FITTED_ROWS of the rows, as many of each class as there are: those with the smallest hashes."""
    if len(rows) <= _FITTED_ROWS:
        return rows
    order = np.lexsort((texts, given))
    counts = np.bincount(given)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)  # in its class
    return np.sort(rows[order[np.argsort(place, kind="stable")[:_FITTED_ROWS]]])


def _matrix(signatures: Columns, ends: np.ndarray, rows: np.ndarray) -> "csr_matrix":
    """Returns how often each feature occurs in rows, float64 [rows, features]; ends: of the features of each row."""
    from scipy.sparse import csr_matrix

    counts = signatures["features_count"][rows]
    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    places = np.repeat(ends[rows] - counts - offsets[:-1], counts) + np.arange(offsets[-1])
    found = signatures["features"][places]
    numbers, times = found & np.uint32(2**_BITS - 1), found >> np.uint32(_BITS)
    return csr_matrix(
        (times.astype(np.float64), numbers.astype(np.int32), offsets.astype(np.int32)), shape=(len(rows), 2**_BITS)
    )


def _model() -> Any:
    """Returns an untrained classifier of feature counts."""
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline

    # the dual solver is many times as fast on sparse rows, takes one class at a time, and uses one thread
    of_class = LogisticRegression(C=_STRENGTH, solver="liblinear", dual=True, tol=0.01, random_state=_SEED)
    return make_pipeline(TfidfTransformer(sublinear_tf=True), OneVsRestClassifier(of_class))


def _confident_errors(given: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns which labels confident learning finds to be wrong, bool [rows]."""
    from cleanlab.filter import find_label_issues

    return find_label_issues(given, probabilities, filter_by="confident_learning", n_jobs=1)
