"""Which files of a folder hold a model's weights, and what they hold in short, without loading torch."""

import hashlib
import json
from pathlib import Path

from distft.runtime.seals import Damaged, check_names

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_SAMPLES, _SAMPLE_BYTES = 16, 2**14  # of each file, evenly spread, the beginning of its header among them


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


def content_hash(folder: Path) -> str:
    """Returns a hash of config.json and of the weights, wherever the folder is; FileNotFoundError where one is missing.

    Of each file of weights its size and SAMPLES pieces are read: another model of the same shape differs in every one,
    and hashing all bytes of a large model would take minutes on a login node.
    """
    digest = hashlib.sha256(json.dumps(json.loads((folder / "config.json").read_text()), sort_keys=True).encode())
    for name in weight_files(folder):
        size = (folder / name).stat().st_size
        digest.update(f"{name} {size} ".encode())
        with (folder / name).open("rb") as file:
            for start in sorted({max(0, size - _SAMPLE_BYTES) * i // (_SAMPLES - 1) for i in range(_SAMPLES)}):
                file.seek(start)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:32]
