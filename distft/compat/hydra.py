"""Hydra 1.3: private parts that config and sweeps need; the sweeper itself is in `compat.hydra_sweeper`."""

from hydra._internal.callbacks import Callbacks

from distft.compat.reach import Reach

_SEEN = "hydra-core 1.3.8"
REACHES = (
    Reach("hydra._internal.callbacks.Callbacks", _SEEN, "a HydraContext requires one; it is empty"),
    Reach(
        "hydra.core.override_parser.overrides_parser.OverridesParser.create",
        _SEEN,
        "Hydra's grammar of overrides, which config and sweep read",
        takes=("config_loader",),
    ),
)


def no_callbacks() -> Callbacks:
    """Returns an empty Callbacks for a HydraContext."""
    return Callbacks()
