"""Hydra's BasicSweeper, which goes through every combination of values.

Trap: Hydra runs the files of its own plugins again when it first looks for them; a BasicSweeper imported before that is
a class that its own methods do not know. So importing this module makes Hydra look, which takes a while.
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
