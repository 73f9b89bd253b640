"""A disk that may lose unsynced data, and every state in which a power loss may leave it.

What is promised, and no more: fsync of a file keeps its bytes, fsync of a folder the names in it. A name that was not
synced is kept or lost, each on its own and in any order, a rename as one; so no journal is assumed that would keep a
file's name, or the order of two renames. Bytes that were not synced are kept, lost, cut in half, or zeros.
The bound: of up to ALL changes of names in one folder every subset; of more those that are a prefix, lack one, or are
one alone; of several folders every combination up to COMBINED, else each folder's while the others keep all or none.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, combinations, product

ALL, COMBINED = 6, 256
ROOT = 0

Tree = bytes | str | tuple[tuple[str, "Tree"], ...]  # a file, a link's target, a folder's names in order
Names = dict[str, int | None]  # None: the name is gone
Kept = tuple[int, ...]  # numbers of the changes that are kept


@dataclass
class Disk:
    """Files and folders by number; what each was at its last sync, and what was done to it since, with the time."""

    names: dict[int, Names] = field(default_factory=lambda: {ROOT: {}})
    bytes_: dict[int, bytes] = field(default_factory=dict)
    links: dict[int, str] = field(default_factory=dict)
    new_names: dict[int, list[tuple[int, Names]]] = field(default_factory=lambda: defaultdict(list))
    new_bytes: dict[int, list[tuple[int, bytes]]] = field(default_factory=lambda: defaultdict(list))

    def sync(self, number: int, before: int) -> None:
        """Makes last what was done to a file or a folder before a time."""
        for time, changes in self.new_names.pop(number, []):
            if time < before:
                self.names[number] = _changed(self.names[number], [changes])
            else:
                self.new_names[number].append((time, changes))
        for time, content in self.new_bytes.pop(number, []):
            if time < before:
                self.bytes_[number] = content
            else:
                self.new_bytes[number].append((time, content))

    def now(self) -> Tree:
        """Returns what programs see while there is power."""
        return self._tree(ROOT, self._names({n: tuple(range(len(c))) for n, c in self.new_names.items()}), self._full())

    def states(self) -> Iterator[Tree]:
        """Yields what a loss of power may leave, some states more than once."""
        for kept in _kept({number: len(changes) for number, changes in self.new_names.items() if changes}):
            names = self._names(kept)
            for content in self._contents(_reachable(names)):
                yield self._tree(ROOT, names, content)

    def _names(self, kept: dict[int, Kept]) -> dict[int, Names]:
        changed = {
            number: _changed(self.names[number], [self.new_names[number][i][1] for i in which])
            for number, which in kept.items()
        }
        return self.names | changed

    def _full(self) -> dict[int, bytes]:
        return self.bytes_ | {number: contents[-1][1] for number, contents in self.new_bytes.items() if contents}

    def _contents(self, reachable: set[int]) -> Iterator[dict[int, bytes]]:
        """Yields all bytes kept, all lost, and one file's kept alone, or lost, cut or zeros alone."""
        full, lost = self._full(), self.bytes_
        unsynced = [number for number, contents in self.new_bytes.items() if contents and number in reachable]
        yield full
        if unsynced:
            yield full | {number: lost[number] for number in unsynced}
        for number in unsynced:
            whole = full[number]
            for content in (lost[number], whole[: (len(lost[number]) + len(whole)) // 2], bytes(len(whole))):
                yield full | {number: content}
            yield full | {other: lost[other] for other in unsynced if other != number}

    def _tree(self, number: int, names: dict[int, Names], content: dict[int, bytes]) -> Tree:
        if number in self.links:
            return self.links[number]
        if number in content:
            return content[number]
        return tuple(
            (name, self._tree(child, names, content))
            for name, child in sorted(names[number].items())
            if child is not None
        )


def _changed(names: Names, changes: list[Names]) -> Names:
    for each in changes:
        names = names | each
    return names


def _reachable(names: dict[int, Names]) -> set[int]:
    found, new = set(), [ROOT]
    while new:
        number = new.pop()
        found.add(number)
        new += [child for child in names.get(number, {}).values() if child is not None]
    return found


def _subsets(count: int) -> list[Kept]:
    every = range(count)
    if count <= ALL:
        return list(chain.from_iterable(combinations(every, size) for size in range(count + 1)))
    prefixes = [tuple(range(size)) for size in range(count + 1)]
    return [*prefixes, *combinations(every, count - 1), *combinations(every, 1)]


def _kept(counts: dict[int, int]) -> Iterator[dict[int, Kept]]:
    """Yields which changes of each folder are kept."""
    subsets = {number: _subsets(count) for number, count in counts.items()}
    size = 1
    for each in subsets.values():
        size *= len(each)
    if size <= COMBINED:
        for kept in product(*subsets.values()):
            yield dict(zip(subsets, kept, strict=True))
        return
    for number, each in subsets.items():
        for others in (dict.fromkeys(counts, ()), {n: tuple(range(count)) for n, count in counts.items()}):
            for kept in each:
                yield others | {number: kept}
