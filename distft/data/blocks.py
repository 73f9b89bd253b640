"""Blocks: consecutive rows of the sources, the unit of work of the data stage.

Where one block ends and the next begins depends on the sources alone, never on the number of processes, so that the
finished blocks of a killed preparation are used by the next one. The lines of a JSON Lines file travel unparsed: the
process that makes the block's rows parses them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from distft.data.json_lines import Lines
from distft.data.raw import RawRow

BLOCK_ROWS = 4096
BLOCK_BYTES = 8 * 2**20  # of text, about


@dataclass(frozen=True)
class Block:
    """Consecutive rows of one stream, parsed or as lines."""

    index: int
    parts: tuple[Lines | RawRow, ...]

    def rows(self) -> Iterator[RawRow]:
        for part in self.parts:
            if isinstance(part, Lines):
                yield from part.rows()
            else:
                yield part


def blocks_of(parts: Iterable[Lines | RawRow]) -> Iterator[Block]:
    """Yields the rows in blocks of at most about BLOCK_ROWS rows or BLOCK_BYTES bytes."""
    index, pending, rows, size = 0, [], 0, 0
    for part in parts:
        pending.append(part)
        rows, size = rows + part.num_rows, size + part.num_bytes
        if rows >= BLOCK_ROWS or size >= BLOCK_BYTES:
            yield Block(index, tuple(pending))
            index, pending, rows, size = index + 1, [], 0, 0
    if pending:
        yield Block(index, tuple(pending))
