"""FLOPs of training a decoder, and the rate of this machine's fp32 matrix product.

`python -m benchmarks.peers.flops THREADS` prints the rate in GFLOP/s. It varies by half within minutes on a shared
machine, so it is measured before and after every run.
"""

import subprocess
import sys
import time
from collections.abc import Mapping
from statistics import median
from typing import Any

SIZE = 2048  # of square matrices: 17 GFLOP, larger than every cache
_SECONDS = 2.0


def useful_flops(architecture: Mapping[str, Any], tokens: int, targets: int) -> float:
    """Returns the FLOPs of one document without any waste, such as padding or recomputation.

    Matrix products only: forward once and backward twice, causal attention within the document, and the vocabulary
    projection of the target tokens. architecture: config.json of a Llama-like decoder with a gated MLP. targets:
    tokens with a loss.
    """
    hidden, layers = architecture["hidden_size"], architecture["num_hidden_layers"]
    heads = architecture["num_attention_heads"]
    head_size = architecture.get("head_dim") or hidden // heads
    key_heads = architecture.get("num_key_value_heads") or heads
    attention = 2 * hidden * heads * head_size + 2 * hidden * key_heads * head_size  # q and o, k and v
    mlp = 3 * hidden * architecture["intermediate_size"]
    pairs = tokens * (tokens + 1) // 2
    forward = 2 * layers * (tokens * (attention + mlp) + 2 * pairs * heads * head_size)
    return 3.0 * (forward + 2 * targets * hidden * architecture["vocab_size"])


def measure(threads: int) -> float:
    """Returns the median GFLOP/s of products over two seconds, after a warm-up."""
    import torch  # not at the top: the memory of this process would add to the measured one

    torch.set_num_threads(threads)
    a, b, out = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE), torch.empty(SIZE, SIZE)
    rates: list[float] = []
    ends = time.perf_counter() + _SECONDS
    while time.perf_counter() < ends or len(rates) < 5:
        began = time.perf_counter()
        torch.mm(a, b, out=out)
        rates.append(2 * SIZE**3 / (time.perf_counter() - began) / 1e9)
    return median(rates[2:])


def product_gflops(threads: int) -> float:
    """Returns the rate, measured in its own process."""
    command = [sys.executable, "-m", "benchmarks.peers.flops", str(threads)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    print(measure(int(sys.argv[1])))
