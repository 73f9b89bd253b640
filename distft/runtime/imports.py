"""Imports of large libraries, without the garbage collections that they set off."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Collects nothing inside; what is there at the end is never looked through again.

    torch and transformers make a million objects that stay; looking through them again and again took 12% of the
    imports of a rank. Forks also keep sharing the pages of what no collection writes to.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
