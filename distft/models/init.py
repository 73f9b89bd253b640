"""Weight initialization: a new parameter is a function of the seed and its module's name, independent of sharding.

The model's own code initializes one whole module at a time on the CPU, seeded by its name; then it is sharded.
Trap: initializing shards directly gives *identical* shards on all ranks.
"""

import copy
from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedModel

from distft.compat.transformers import init_weights
from distft.models.adapters import fresh_adapter, is_adapter
from distft.models.build import blocks
from distft.runtime.determinism import seed_for


class FreshWeights:
    """Source of new weights for `model`, which is on meta, and its adapters; holds one block at a time."""

    def __init__(self, model: PreTrainedModel, seed: int) -> None:
        self.model = model
        repeated = list(blocks(model))
        self.units = sorted([*repeated, *_outside(model, repeated)], key=len, reverse=True)
        self.seed = seed
        self.initialized: tuple[str, dict[str, torch.Tensor]] = ("", {})

    def read(self, name: str, shape: tuple[int, ...], start: int, count: int) -> torch.Tensor:
        """Returns elements start to start + count of parameter `name`, row-major, as fp32 [count]."""
        if is_adapter(name):
            return fresh_adapter(self.seed, name, shape).view(-1)[start : start + count]
        unit = next(unit for unit in self.units if name.startswith(f"{unit}."))
        if self.initialized[0] != unit:
            self.initialized = (unit, dict(self._initialize(unit)))
        return self.initialized[1][name].view(-1)[start : start + count]

    def _initialize(self, unit: str) -> Iterator[tuple[str, torch.Tensor]]:
        module = copy.deepcopy(self.model.get_submodule(unit)).to_empty(device="cpu")
        names = {child: name for name, child in module.named_modules()}
        for parameter in module.parameters():
            parameter.detach().fill_(float("nan"))
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            for child in _children_first(module):
                torch.default_generator.manual_seed(seed_for(self.seed, "init", f"{unit}.{names[child]}"))
                init_weights(self.model, child)
        for name, parameter in module.named_parameters():
            if parameter.isnan().any():
                kind = self.model.config.model_type
                raise RuntimeError(
                    f"{unit}.{name} has a value only from the constructor of its class, which is not known here, so "
                    f"{kind} has no random instance. Try: model.tiny=false, with trained weights"
                )
            yield f"{unit}.{name}", parameter.detach()


def _children_first(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        yield from _children_first(child)
    yield module


def _outside(model: nn.Module, repeated: list[str]) -> Iterator[str]:
    """Yields the names of the modules outside the blocks that own parameters directly."""
    for name, module in model.named_modules():
        inside = any(name == block or name.startswith(f"{block}.") for block in repeated)
        if name and not inside and list(module.parameters(recurse=False)):
            yield name
