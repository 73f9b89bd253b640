"""Memorization check: the share of an answer's n-grams that occur verbatim in the training rows.

An n-gram is 8 tokens, about a clause: a model that has learnt a style repeats few of them, one that has learnt its rows
by heart most. The share of the expected answers, which a person wrote, is the one to compare with: set phrases occur in
any answer. Verbatim n-grams as a measure of copying: McCoy et al. 2021, arXiv 2111.09509.

All training tokens are searched, by hashes that each process computes for its part; a hit is compared token by token.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from distft.data.shards import Rows
from distft.runtime import heartbeat
from distft.runtime.process_group import World, all_reduce_sum

NGRAM = 8  # tokens
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # of a polynomial hash of 64 bits
_FILTER, _SHIFT = 2**20, np.uint64(44)
_CHUNK = 2**20  # positions hashed at once

Tokens = Sequence[int]


def verbatim_shares(texts: Sequence[Tokens], rows: Rows, world: World) -> list[float | None]:
    """Returns for each text the share of its n-grams that some row contains; None for a text shorter than one.

    Every process calls it with the same texts and searches its part of the rows.
    """
    grams = [tuple(text[i : i + NGRAM]) for text in texts for i in range(len(text) - NGRAM + 1)]
    wanted = sorted(set(grams))
    found = torch.zeros(max(1, len(wanted)), dtype=torch.float64)
    for gram in _found(wanted, rows, world) if wanted else ():
        found[gram] = 1.0
    everywhere = all_reduce_sum(found.to(world.device)).tolist()
    is_there = {gram: everywhere[i] > 0 for i, gram in enumerate(wanted)}
    shares: list[float | None] = []
    for text in texts:
        own = [is_there[tuple(text[i : i + NGRAM])] for i in range(len(text) - NGRAM + 1)]
        shares.append(sum(own) / len(own) if own else None)
    return shares


def _found(wanted: Sequence[tuple[int, ...]], rows: Rows, world: World) -> Iterator[int]:
    """Yields the indices of the wanted n-grams that this process finds in its part of the rows."""
    array = np.array(wanted, dtype=np.int32)  # [W, NGRAM]
    hashes = _hashes(array)[:, 0]
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    may_be_wanted = np.zeros(_FILTER, dtype=bool)  # by the highest bits of the hash: most positions end here
    may_be_wanted[hashes >> _SHIFT] = True
    for number, (tokens, ends) in enumerate(_chunks(rows)):
        if number % world.size != world.rank:
            continue
        heartbeat.beat()
        here = _hashes(tokens)
        candidates = np.flatnonzero(may_be_wanted[here >> _SHIFT])
        places = np.searchsorted(ordered, here[candidates])
        for at, place in zip(candidates.tolist(), places.tolist(), strict=True):
            is_in_one_row = np.searchsorted(ends, at, side="right") == np.searchsorted(ends, at + NGRAM)
            if place < len(order) and is_in_one_row and np.array_equal(array[order[place]], tokens[at : at + NGRAM]):
                yield int(order[place])


def _hashes(tokens: np.ndarray) -> np.ndarray:
    """Returns a hash of each n-gram along the last axis, uint64 [..., T - NGRAM + 1]: of 2, 4 and then 8 tokens."""
    found, factor, width = tokens.astype(np.uint64) + np.uint64(1), _FACTOR, 1
    while width < NGRAM:
        found = found[..., : found.shape[-1] - width] * factor + found[..., width:]
        factor, width = np.multiply(factor, factor, dtype=np.uint64), 2 * width
    return found * _FACTOR


def _chunks(rows: Rows) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields tokens, int32 [T], and the ends of the rows in them, ascending; chunks overlap by an n-gram."""
    for tokens, ends in rows.token_arrays():
        for start in range(0, max(1, len(tokens) - NGRAM + 1), _CHUNK):
            part = tokens[start : start + _CHUNK + NGRAM - 1]
            if len(part) >= NGRAM:
                first, last = np.searchsorted(ends, (start, start + len(part)), side="right")
                yield part, ends[first:last] - start
