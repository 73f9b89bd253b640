"""Where in the rows a run goes on: a pure function of the checkpoint and of what decides which rows a step reads."""

from collections.abc import Mapping
from typing import Any

from distft.data.steps import Base

ORDER = ("data", "shards", "seed", "order")  # other steps over the same order of rows go on where the last one ended
_OLDEST = {"order": 1}  # what runs read that were frozen before it was written down


def base_of(manifest: Mapping[str, Any] | None, reads: dict[str, Any]) -> Base:
    """Returns the checkpoint's own base where the run reads as it did, else one that begins at the checkpoint.

    reads: Plan.reads. New data, or the same in another order, is read from its beginning.
    """
    if manifest is None:
        return Base()
    before, reads = _OLDEST | manifest["reads"], _OLDEST | reads
    if before == reads:
        return Base(manifest["base_step"], manifest["base_row"])
    same_order = all(before[key] == reads[key] for key in ORDER)
    return Base(manifest["step"], manifest["next_row"] if same_order else 0)


def order_version(reads: Mapping[str, Any]) -> int:
    """Returns the version of the order in which a frozen run reads its rows (distft.data.steps.Order)."""
    return (_OLDEST | dict(reads))["order"]
