"""Seeds as a pure function of what they are for, so that nothing about randomness needs saving."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def seed_for(seed: int, *words: object) -> int:
    """Returns 63 bits that depend on the run's seed and on every word, and on nothing else."""
    text = "\x1f".join(str(word) for word in (seed, *words))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def splitmix64(numbers: "np.ndarray") -> "np.ndarray":
    """Returns a 64-bit hash of each number, uint64 [N]: the output function of splitmix64, a bijection.

    In wrapping integers alone, so that no library's version changes a bit of it. In place: `numbers` is overwritten.
    Source: Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, 2014, with Stafford's constants.
    """
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers ^= numbers >> numbers.dtype.type(shift)
        numbers *= numbers.dtype.type(factor)
    numbers ^= numbers >> numbers.dtype.type(31)
    return numbers
