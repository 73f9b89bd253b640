"""Seeds as a pure function of what they are for, so that nothing about randomness needs saving."""

import hashlib


def seed_for(seed: int, *words: object) -> int:
    """Returns 63 bits that depend on the run's seed and on every word, and on nothing else."""
    text = "\x1f".join(str(word) for word in (seed, *words))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
