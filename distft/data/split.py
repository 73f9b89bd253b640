"""Which rows are held out: decided by a row's content alone, so that duplicates always fall on the same side."""

import hashlib
import unicodedata

from distft.data.example import Example


def content_id(example: Example) -> str:
    """Returns a hash of the normalised text: case, spacing and Unicode form make no difference, roles do."""
    parts = (f"{segment.role}\x1e{_normalised(segment.text)}" for segment in example.segments)
    return hashlib.blake2b("\x1f".join(parts).encode(), digest_size=16).hexdigest()


def position(identity: str, seed: int) -> float:
    """Returns where a row stands in [0, 1): uniform over contents, another order for each seed."""
    digest = hashlib.blake2b(f"{seed}:{identity}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
