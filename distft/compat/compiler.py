"""torch.compile's own switches."""

from torch.fx.experimental import _config as symbolic_shapes

from distft.compat.reach import Reach

REACHES = (
    Reach(
        "torch.fx.experimental._config.use_duck_shape",
        "torch 2.11 to 2.13",
        "one graph serves every length, also one that equals another size of the model",
    ),
)


def tell_equal_sizes_apart() -> None:
    """Has torch.compile take sizes that are equal at the first call for different ones.

    Otherwise a row as long as a hidden state is wide makes a graph for that length alone.
    """
    symbolic_shapes.use_duck_shape = False
