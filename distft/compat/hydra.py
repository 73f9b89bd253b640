"""Parts of Hydra 1.3 that a sweep by Hydra's own sweeper needs beside it; the sweeper is in `compat.hydra_sweeper`."""

from hydra._internal.callbacks import Callbacks

from distft.compat.reach import Reach

_SEEN = "hydra-core 1.3.8"
REACHES = (
    Reach("hydra._internal.callbacks.Callbacks", _SEEN, "a HydraContext wants one; it is empty"),
    Reach(
        "hydra.core.override_parser.overrides_parser.OverridesParser.create",
        _SEEN,
        "Hydra's grammar of overrides, which config and sweep read",
        takes=("config_loader",),
    ),
)


def no_callbacks() -> Callbacks:
    """Returns what a HydraContext takes for a program that has registered no callbacks."""
    return Callbacks()
