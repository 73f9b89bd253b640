"""A folder that appears whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_or_nothing(out: Path) -> Iterator[Path]:
    """Gives a folder beside `out` to write to, which takes its name at the end and is gone after an error.

    Where the system refused, its OSError is what is raised: torch's writers hide a full disk behind another error.
    """
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        refused = next((each for each in _chain(error) if isinstance(each, OSError)), None)
        if refused in (None, error):
            raise
        raise refused from error
    partial.rename(out)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
