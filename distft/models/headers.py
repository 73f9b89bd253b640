"""The headers of many files, each read by one process and told to all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distft.models.stored import read_header
from distft.runtime.process_group import World, from_first, texts_of_all
from distft.runtime.seals import Damaged, Seal


def read_headers(
    folder: Path, names: list[str], world: World, seals: Mapping[Path, Seal] | None = None
) -> dict[str, dict[str, Any]]:
    """Returns the header of each file that rank 0 names; Damaged on every process when one is not what it must be."""
    names = json.loads(from_first(json.dumps(names), world))
    headers: dict[str, Any] = {}
    damaged = ""
    for name in names[world.rank :: world.size]:
        try:
            headers[name] = read_header(folder / name, (seals or {}).get(folder / name))
        except (RuntimeError, OSError) as error:
            damaged = damaged or str(error)
    told = [json.loads(text) for text in texts_of_all(json.dumps({"headers": headers, "damaged": damaged}), world)]
    for each in told:
        if each["damaged"]:
            raise Damaged(each["damaged"])
        headers |= each["headers"]
    return {name: headers[name] for name in names}
