"""Expected cost of a step on H100 nodes, by counting: `python -m benchmarks.expected` prints a Markdown table.

Nothing here is measured. Operations and bytes are counted from the models' configs as distft executes them; rates are
NVIDIA's data sheet of the H100 SXM (dense bf16, HBM3, NVLink 4) and an InfiniBand NDR port for each GPU.
"""

from dataclasses import dataclass

import numpy as np
import yaml
from torch import nn

from benchmarks.measurement import table
from distft.config.parts import Strategy
from distft.models.build import architecture, blocks, skeleton
from distft.models.flops import Flops
from distft.paths import conf_dir
from distft.plan.memory import Sizes, memory_of

BF16, FP32 = 2, 4
GPUS = 8  # of a node
MODELS = (("llama3_8b", 4096), ("llama3_8b", 16384), ("llama3_70b", 4096))  # and the tokens of a document
REACHED = 0.7  # of the data sheet's rate, by large products alone; a share of the whole step is lower


@dataclass(frozen=True)
class Device:
    """One accelerator: FLOP/s, bytes/s one way inside its node and to other nodes, bytes of memory."""

    flops: float = 989e12
    in_node: float = 450e9
    between: float = 50e9
    memory: float = 80e9


@dataclass(frozen=True)
class Counted:
    """A model: its parameters, how many are gathered for one micro-batch, and the operations of forward and backward
    for one token of documents of one length."""

    name: str
    parameters: int
    gathered: int
    length: int
    flops: float

    @classmethod
    def of(cls, name: str, length: int) -> "Counted":
        values = yaml.safe_load((conf_dir() / "model" / f"{name}.yaml").read_text())
        model = skeleton(architecture(None, values["architecture"]), values["attention"])
        [row] = Flops.of(model).of_rows(np.array([length]), np.array([length]))
        whole = _size(model)
        *again, _ = blocks(model).values()  # gathered for the forward, and all but the last again for the backward
        return cls(name, whole, whole + sum(map(_size, again)), length, 3 * row / length)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def collective_seconds(model: Counted, nodes: int, layout: str, device: Device) -> float:
    """Returns the seconds of the collectives of one forward and backward, by bytes and without overlap.

    Weights are gathered in bf16, gradients are reduced in fp32. A group over whole nodes uses all their ports: a GPU
    forwards what it receives from another node inside of its own.
    """
    world, inside = nodes * GPUS, nodes == 1 or layout == "hsdp"
    shards = GPUS if layout == "hsdp" else world
    size = (model.gathered * BF16 + model.parameters * FP32) * (shards - 1) / shards
    seconds = size / (device.in_node if inside else min(device.in_node, GPUS * device.between))
    if layout == "hsdp":
        seconds += 2 * FP32 * model.parameters / GPUS * (nodes - 1) / nodes / device.between
    return seconds


def row(model: Counted, nodes: int, layout: str, device: Device) -> list[str]:
    world = nodes * GPUS
    strategy = Strategy.model_validate({"layout": layout, "shard_size": GPUS})
    sizes = Sizes(
        parameters=model.parameters,
        trained=model.parameters,
        state_bytes=2 * FP32,
        compute_bytes=BF16,
        world=world,
        node=GPUS,
    )
    memory = memory_of(strategy, sizes)
    assert memory is not None
    talk = collective_seconds(model, nodes, layout, device)
    rate = device.flops * REACHED / model.flops
    cells = [model.name, f"{model.length:,}", str(nodes), layout, f"{model.flops / 1e9:,.1f}"]
    if memory["total"] > device.memory:
        return [*cells, f"{memory['total'] / 1e9:.1f}: does not fit", "-", "-", "-"]
    return [*cells, f"{memory['total'] / 1e9:.1f}", f"{talk:.2f}", f"{rate:,.0f}", f"{talk * rate:,.0f}"]


def main() -> None:
    device = Device()
    head = ["model", "document", "nodes", "strategy", "GFLOP per token", "persistent GB", "s of collectives"]
    head += [f"tokens/s per GPU at {REACHED:.0%}", "tokens per GPU to hide them"]
    rows = [
        row(model, nodes, layout, device)
        for model in (Counted.of(name, length) for name, length in MODELS)
        for nodes in (1, 2, 8)
        for layout in ("fsdp", "hsdp")
        if nodes > 1 or layout == "fsdp"
    ]
    print(table(head, rows), end="")


if __name__ == "__main__":
    main()
