"""The largest forward of a run, and what a step of it holds in addition to the state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distft.config import Config
from distft.machines import num_accelerators
from distft.plan.activations import Batch, activation_bytes, loss_bytes
from distft.plan.memory import FP32_BYTES, Architecture, Layer, Parts, Sizes, in_four_bits, optimizer_bytes
from distft.tasks import load_task

MicroBatch = tuple[int | None, int | None]  # rows, or else tokens


def longest_row(config: Config) -> int:
    """Returns the most tokens that a row may have: a pair has two documents of data.max_length."""
    return config.data.max_length * (2 if load_task(config.model.task).unit == "pair" else 1)


@dataclass(frozen=True)
class Lengths:
    """What is known of the rows."""

    longest: int | None = None  # tokens of the longest row
    mean: int | None = None
    rows: int | None = None  # of a step, on one process


def forward(config: Config, micro: MicroBatch, of: Lengths, accelerators: bool) -> Batch:
    """Returns the largest forward of a run. accelerators: whether it has some (on_accelerators)."""
    rows, tokens = micro
    longest = min(longest_row(config), of.longest or longest_row(config))
    if tokens and of.rows:
        tokens = min(tokens, of.rows * longest)
    return Batch(
        tokens=tokens or (rows or 1) * longest,
        compute_bytes=compute_bytes(config, accelerators),
        recomputed=config.train.activation_checkpointing,
        documents=max(1, tokens // (of.mean or longest)) if tokens else rows or 1,
        rank=config.tuning.rank if config.tuning.has_adapters else None,
        is_accelerator=accelerators,
    )


def sizes_of(
    config: Config,
    parts: Parts | None,
    layers: Sequence[Layer],
    adapters: int | None,
    world: int,
    node: int,
    accelerators: bool,
) -> Sizes | None:
    """Returns what the state of a run consists of; None for an unknown optimizer or unknown adapters.

    layers: every linear layer of the repeated blocks. adapters: their parameters, 0: not known; None: the model itself
    is trained. node: processes of a node.
    """
    quantized = dequantized = 0
    if parts and config.tuning.is_quantized:
        parts, quantized, dequantized = in_four_bits(parts, layers)
    state_bytes, parameters = optimizer_bytes(config.optimizer), parts.total if parts else 0
    if state_bytes is None or adapters == 0:
        return None
    return Sizes(
        parameters=parameters + (adapters or 0),
        trained=parameters if adapters is None else adapters,
        state_bytes=state_bytes + (FP32_BYTES if config.train.ema_decay else 0),
        compute_bytes=compute_bytes(config, accelerators),
        world=world,
        node=node,
        parts=parts,
        quantized=quantized,
        dequantized=dequantized,
    )


def step_bytes(config: Config, facts: Architecture, batch: Batch) -> dict[str, int]:
    """Returns the bytes of activations and loss; nothing where the architecture does not name its sizes.

    facts: of config.json.
    """
    is_language = load_task(config.model.task).model_class == "AutoModelForCausalLM"
    try:
        outputs = None if is_language else int(facts.get("num_labels") or 2)
        return {"activations": activation_bytes(facts, batch), "loss": loss_bytes(facts, batch, outputs)}
    except ValueError:
        return {}


def with_step(memory: Mapping[str, dict[str, int]], step: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Returns the memory with that of a step, and for each strategy the peak on its device."""
    whole = {name: {**counted, **step} for name, counted in memory.items()}
    for counted in whole.values() if step else ():
        counted["peak"] = counted["total"] - counted["host"] + counted.get("gathered", 0) + sum(step.values())
    return whole


def compute_bytes(config: Config, accelerators: bool) -> int:
    """Returns the bytes of a number that is computed with; `auto` is assumed to be bf16 on accelerators."""
    precision = config.train.precision
    return 2 if precision == "bf16" or (precision == "auto" and accelerators) else FP32_BYTES


def on_accelerators(config: Config) -> bool:
    """Returns whether the run has accelerators; a cluster's nodes are assumed to have some."""
    return num_accelerators() > 0 or config.launcher.target != "distft.launchers.local.Local"
