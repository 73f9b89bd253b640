"""The rate of this machine's fp32 matrix product: `python -m benchmarks.peers.product THREADS`, GFLOP/s on stdout.

It moves by half within minutes on a shared machine, so it is measured before and after every run.
"""

import subprocess
import sys
import time
from statistics import median

SIZE = 2048  # 2048 x 2048 of each factor: 17 GFLOP, past every cache
_SECONDS = 2.0


def measure(threads: int) -> float:
    """Returns the median GFLOP/s of products for two seconds; the first ones warm up."""
    import torch  # so that the benchmark itself stays small: its memory adds to what it measures

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
    """Returns the rate, measured by a process of its own."""
    command = [sys.executable, "-m", "benchmarks.peers.product", str(threads)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    print(measure(int(sys.argv[1])))
