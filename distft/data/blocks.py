"""Blocks: consecutive rows of the sources, the unit of work of the data stage.

Where one block ends and the next begins depends on the sources alone, never on the number of processes, so that the
finished blocks of a killed preparation are used by the next one. The lines of a JSON Lines file travel unparsed: the
process that makes the block's rows parses them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from distft.data.raw import Part, RawRow

BLOCK_ROWS = 1024
BLOCK_BYTES = 4 * 2**20  # of text, about


@dataclass(frozen=True)
class Block:
    """Consecutive rows of one stream, parsed or as lines."""

    index: int
    item: int  # number of the item of data.train or data.eval that the rows are from
    parts: tuple[Part, ...]

    def rows(self) -> Iterator[RawRow]:
        for part in self.parts:
            yield from part.rows()


def blocks_of(items: Iterable[tuple[int, Iterable[Part]]]) -> Iterator[Block]:
    """Yields the rows in blocks of at most about BLOCK_ROWS rows or BLOCK_BYTES bytes, each of one item.

    items: number of the item, and its rows.
    """
    index = 0
    for item, parts in items:
        pending: list[Part] = []
        rows, size = 0, 0
        for part in parts:
            pending.append(part)
            rows, size = rows + part.num_rows, size + part.num_bytes
            if rows >= BLOCK_ROWS or size >= BLOCK_BYTES:
                yield Block(index, item, tuple(pending))
                index, pending, rows, size = index + 1, [], 0, 0
        if pending:
            yield Block(index, item, tuple(pending))
            index += 1
