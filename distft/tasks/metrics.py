"""Metrics of all held-out units together, in fp64; each function names the definition that it follows.

What is undefined for the rows at hand, such as the AUROC of rows of one class, is NaN, which JSON shows as null.
"""

import numpy as np

CALIBRATION_BINS = 15  # of equal width, as in Guo et al. 2017 (arXiv 1706.04599)


def of_classes(outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns f1_macro, f1_micro, auroc and ece of one class per unit, as scikit-learn defines the first three.

    outputs: logits [U, C]. labels: the number of each unit's class [U].
    """
    truth, guess = labels.astype(np.int64), outputs.argmax(1)
    probabilities = softmax(outputs)
    present = np.union1d(truth, guess)
    is_true, is_guess = truth[:, None] == present, guess[:, None] == present  # [U, present classes]
    f1 = f1_of(is_true, is_guess)
    if outputs.shape[1] == 2:
        area = auroc(probabilities[:, 1], truth == 1)
    else:
        area = mean_of([auroc(probabilities[:, each], truth == each) for each in range(outputs.shape[1])])
    return {
        "f1_macro": float(f1.mean()),
        "f1_micro": float(np.mean(truth == guess)),
        "auroc": area,
        "ece": calibration_error(probabilities.max(1), truth == guess),
    }


def of_several_classes(outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns the same of any number of classes per unit; a class is predicted from a probability of one half on.

    outputs: logits [U, C]. labels: 0 or 1 of every class [U, C]. ece: over all decisions about one class.
    """
    is_true, is_guess = labels > 0.5, outputs >= 0
    probabilities = 1 / (1 + np.exp(-outputs))
    both = 2.0 * (is_true & is_guess).sum()
    all_marked = is_true.sum() + is_guess.sum()
    confidence = np.where(is_guess, probabilities, 1 - probabilities)
    return {
        "f1_macro": float(f1_of(is_true, is_guess).mean()),
        "f1_micro": float(both / all_marked) if all_marked else 0.0,
        "auroc": mean_of([auroc(outputs[:, each], is_true[:, each]) for each in range(outputs.shape[1])]),
        "ece": calibration_error(confidence.ravel(), (is_true == is_guess).ravel()),
    }


def of_values(outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns r2, pearson and spearman, each the mean over the values of a row; of equal labels they are undefined.

    outputs, labels: [U, D].
    """
    residual = ((outputs - labels) ** 2).sum(0)
    total = ((labels - labels.mean(0)) ** 2).sum(0)
    columns = range(labels.shape[1])
    ranks = [(ranked(outputs[:, each]), ranked(labels[:, each])) for each in columns]
    return {
        "r2": mean_of([1 - residual[each] / total[each] if total[each] > 0 else np.nan for each in columns]),
        "pearson": mean_of([correlation(outputs[:, each], labels[:, each]) for each in columns]),
        "spearman": mean_of([correlation(*both) for both in ranks]),
    }


def softmax(outputs: np.ndarray) -> np.ndarray:
    """Returns the probabilities of logits [U, C]."""
    raised = np.exp(outputs - outputs.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def f1_of(is_true: np.ndarray, is_guess: np.ndarray) -> np.ndarray:
    """Returns F1 of each class [C], 0 where it is neither true nor predicted. is_true, is_guess: [U, C]."""
    marked = is_true.sum(0) + is_guess.sum(0)
    return 2.0 * (is_true & is_guess).sum(0) / np.maximum(marked, 1)


def auroc(scores: np.ndarray, is_positive: np.ndarray) -> float:
    """Returns the area under the ROC curve: the share of (positive, negative) pairs in the right order, ties half."""
    positives = int(is_positive.sum())
    negatives = len(is_positive) - positives
    if not positives or not negatives:
        return float("nan")
    above = ranked(scores)[is_positive].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def calibration_error(confidence: np.ndarray, is_right: np.ndarray) -> float:
    """Returns the expected calibration error: |accuracy - confidence| of each bin, weighted by its units.

    confidence: of the predicted class [U], in (0, 1].
    """
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
    distance = np.bincount(bins, confidence, CALIBRATION_BINS) - np.bincount(bins, is_right, CALIBRATION_BINS)
    return float(np.abs(distance).sum() / max(1, len(confidence)))


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Returns Pearson's correlation; NaN where one side does not vary."""
    one, other = one - one.mean(), other - other.mean()
    size = np.sqrt((one**2).sum() * (other**2).sum())
    return float((one * other).sum() / size) if size > 0 else float("nan")


def ranked(values: np.ndarray) -> np.ndarray:
    """Returns the ranks from 1, ties at the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def mean_of(values: list[float]) -> float:
    """Returns the mean of the values that are defined; NaN without one."""
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")
