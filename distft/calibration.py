"""`python -m distft.calibration FILE PROCESSES`: measures what a plan needs to know of this machine, into a YAML file.

All processes measure at the same time, since they share the machine's memory, links and, on a CPU, its cores: products
of matrices, copies, a collective, and a training step of a layer stack, whose share of the products' speed is the
efficiency that plans assume.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import yaml
from torch import nn

from distft.data.batches import make_batch, to_device
from distft.data.shards import Row
from distft.losses.cross_entropy import CrossEntropy
from distft.machines import num_accelerators
from distft.models.build import architecture, skeleton
from distft.models.flops import Flops
from distft.plan.fit import GIB, device_bytes
from distft.plan.hardware import NETWORK_BYTES
from distft.runtime.device import exact_products, synchronize
from distft.runtime.logs import silence
from distft.runtime.process_group import BACKENDS, device_of
from distft.train.timing import peak_of

LAYERS = {"model_type": "llama", "num_hidden_layers": 4, "max_position_embeddings": 8192}
SIZES = {  # as of SmolLM2-135M on a CPU, of an 8B model elsewhere
    "cpu": {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3,
            "vocab_size": 49152},
    "accelerator": {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
                    "num_key_value_heads": 8, "vocab_size": 32768},
}  # fmt: skip
TOKENS = {"cpu": (1024, 256), "accelerator": (8192, 2048)}  # of a micro-batch, and of each document
ROUNDS = 5
COPIED = {"cpu": 2**25, "accelerator": 2**29}  # fp32 numbers
SENT = {"cpu": 2**22, "accelerator": 2**28}


def measure(rank: int, world: int, folder: str, threads: int) -> None:
    """Measures as one of `world` processes; writes rank-R.yaml."""
    silence()
    torch.set_num_threads(threads)
    exact_products()
    device = device_of(rank)
    kind = "cpu" if device.type == "cpu" else "accelerator"
    if kind != "cpu":
        torch.accelerator.set_device_index(rank)
    dist.init_process_group(BACKENDS[device.type], init_method=f"file://{folder}/store", rank=rank, world_size=world)
    dtypes = {"bf16": torch.bfloat16, "fp32": torch.float32}
    found = {f"{name}_tflops": peak_of(device, dtype).flops / 1e12 for name, dtype in dtypes.items()}
    source = torch.zeros(COPIED[kind], device=device)
    target = torch.empty_like(source)
    found["memory_gb_s"] = 2 * source.nbytes / seconds_of(lambda: target.copy_(source), device) / 1e9
    dtype = torch.float32 if kind == "cpu" else torch.bfloat16
    flops, step = training_step(device, dtype, kind)
    peak = found["fp32_tflops" if kind == "cpu" else "bf16_tflops"] * 1e12
    found["efficiency"] = min(1.0, flops / seconds_of(step, device) / peak)
    found["link_gb_s"] = found["memory_gb_s"] / 2
    if world > 1:
        part = torch.zeros(SENT[kind], device=device)
        whole = torch.empty(world * SENT[kind], device=device)
        seconds = seconds_of(lambda: dist.all_gather_into_tensor(whole, part), device)
        found["link_gb_s"] = (world - 1) * part.nbytes / seconds / 1e9
    (Path(folder) / f"rank-{rank}.yaml").write_text(yaml.safe_dump(found))
    dist.barrier()
    dist.destroy_process_group()


def training_step(device: torch.device, dtype: torch.dtype, kind: str) -> tuple[float, Callable[[], None]]:
    """Returns the operations of a forward and backward, and the function that does them."""
    model: Any = skeleton(architecture(None, {**LAYERS, **SIZES[kind]}), "auto")
    flops = Flops.of(model)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model = model.to(dtype).to_empty(device=device)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)
    for name, buffer in buffers.items():
        model.get_buffer(name).copy_(buffer)
    tokens, length = TOKENS[kind]
    lengths = np.full(tokens // length, length)
    rows = [Row(np.arange(length, dtype=np.int32), np.ones(length, bool)) for _ in lengths]
    [batch] = to_device([make_batch(rows)], device)
    loss = CrossEntropy()
    model.train()

    def step() -> None:
        model.zero_grad(set_to_none=True)
        value, _ = loss(model, batch)
        value.backward()

    return 3.0 * float(flops.of_rows(lengths, lengths - 1).sum()), step


def seconds_of(act: Callable[[], object], device: torch.device) -> float:
    """Returns the median time over some rounds, all processes at once."""
    times = []
    for _ in range(ROUNDS + 2):
        dist.barrier()
        synchronize(device)
        began = time.perf_counter()
        act()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[2:])


def mean_of(folder: Path, world: int) -> dict[str, float]:
    """Returns the mean of what the processes measured."""
    found: list[Mapping[str, float]] = [yaml.safe_load((folder / f"rank-{r}.yaml").read_text()) for r in range(world)]
    return {name: float(f"{statistics.mean(each[name] for each in found):.4g}") for name in found[0]}


def main(file: str, processes: str) -> int:
    """Returns 0 with the file written."""
    world = int(processes)
    if num_accelerators() and world > num_accelerators():
        print(f"processes={world}: this machine has {num_accelerators()} accelerators", file=sys.stderr)
        return 2
    is_cpu = not num_accelerators()
    threads = max(1, len(os.sched_getaffinity(0)) // world) if is_cpu else 1
    with TemporaryDirectory() as folder:
        mp.spawn(measure, (world, folder, threads), nprocs=world)  # pyright: ignore[reportPrivateImportUsage]
        found = mean_of(Path(folder), world)
    memory = device_bytes(world)
    name = "CPU" if is_cpu else torch.cuda.get_device_name(0) if torch.cuda.is_available() else "accelerator"
    values = {
        "name": f"{name}, {threads} thread{'s' * (threads > 1)}" if is_cpu else name,
        "memory_gib": float(f"{memory[0] / GIB:.4g}") if memory else 1.0,
        **found,
        "network_gb_s": NETWORK_BYTES / 1e9,
        "accelerator": not is_cpu,
        "overlap": 0.0 if is_cpu else 1.0,
        "price_per_hour": None,
    }
    Path(file).write_text(yaml.safe_dump(values, sort_keys=False))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
