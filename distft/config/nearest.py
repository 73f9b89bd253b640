"""Finds what a user most likely meant."""

from collections.abc import Iterable, Sequence

from distft.config.foreign import OURS


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Returns the choice with the fewest changed letters, case aside; None when more than half would change."""
    ranked = sorted((edits(word.casefold(), choice.casefold()), choice) for choice in choices)
    if not ranked or ranked[0][0] > max(len(word), len(ranked[0][1])) / 2:
        return None
    return ranked[0][1]


def nearest_key(key: str, known: Sequence[str]) -> str | None:
    """Returns the known dotted key that `key` most likely meant, also when it stands in another group."""
    if not known:
        return None
    last = key.rpartition(".")[2]
    ours = OURS.get(last, "")
    if ours in known or "=" in ours:
        return ours
    same_name = [path for path in known if path.rpartition(".")[2] == last]
    if same_name:
        return min(same_name, key=lambda path: (edits(key, path), path))
    same_start = [path for path in known if path.partition(".")[0] == key.partition(".")[0]]
    return nearest(key, known) or nearest(last, [path.rpartition(".")[2] for path in same_start])


def edits(a: str, b: str) -> int:
    """Returns how many letters to insert, delete, change or swap with their neighbour to turn `a` into `b`."""
    before_last: list[int] = []
    last = list(range(len(b) + 1))
    for i, letter in enumerate(a, start=1):
        row = [i]
        for j, other in enumerate(b, start=1):
            cost = min(last[j] + 1, row[-1] + 1, last[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                cost = min(cost, before_last[j - 2] + 1)
            row.append(cost)
        before_last, last = last, row
    return last[-1]


def did_you_mean(word: str | None) -> str:
    """Returns the end of an error message that offers `word`, or nothing."""
    return f" Did you mean {word}?" if word else ""
