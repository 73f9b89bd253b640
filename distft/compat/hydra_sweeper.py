"""Hydra's BasicSweeper, which runs every combination of values.

Trap: Hydra executes its plugin files again at plugin discovery; a BasicSweeper imported before that is another class
than the one its methods refer to. So importing this module triggers the discovery, which takes a while.
"""

from hydra.core.plugins import Plugins

from distft.compat.reach import Reach

Plugins.instance()
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # noqa: E402

__all__ = ["BasicSweeper"]

_SWEEPER, _SEEN = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "hydra-core 1.3.8"
REACHES = (
    Reach(_SWEEPER, _SEEN, "every combination of the swept values", takes=("max_batch_size",)),
    Reach(f"{_SWEEPER}.split_arguments", _SEEN, "its product of the values", takes=("overrides", "max_batch_size")),
    Reach(f"{_SWEEPER}.sweep", _SEEN, "goes through the points", takes=("arguments",)),
    Reach(f"{_SWEEPER}.validate_batch_is_legal", _SEEN, "overridden: points are composed already", takes=("batch",)),
)
