"""Which files of a folder hold a model's weights, without loading torch."""

import json
from pathlib import Path

from distft.runtime.seals import Damaged, check_names

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


def weight_files(folder: Path) -> list[str]:
    """Returns the names of the model's files: those of its index, else the single one, else what the listing shows.

    The listing comes last: on a shared disk it may lag, and some folders hold the same weights twice.
    """
    try:
        names = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    except FileNotFoundError:
        names = None
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise Damaged(f"{folder / INDEX} cannot be read: {type(error).__name__}: {error}") from error
    if names is not None:
        check_names(folder / INDEX, names)
        return names
    if (folder / SINGLE).is_file():
        return [SINGLE]
    return sorted(file.name for file in folder.glob("*.safetensors"))
