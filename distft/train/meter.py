"""How much of the machine a step used: model FLOPs utilisation, MFU (Chowdhery et al. 2022, arXiv 2204.02311)."""

import sys
from dataclasses import dataclass

import torch

from distft.train.clock import Clock, seconds_of

# Dense bf16 matrix products of data sheets, FLOP/s, by a part of the device's name; the first that fits.
DATA_SHEETS = (
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("GH200", 989e12),
    ("B200", 2250e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("A10G", 70e12),
    ("MI300X", 1307e12),
    ("MI250X", 191.5e12),
)
_SIZES = (256, 512, 1024)  # a processor without bf16 makes small products faster than large ones
_SIZES_OF_ACCELERATOR = (4096, 8192)  # smaller ones do not fill it
_ROUNDS, _PRODUCTS = 3, 10  # products of a round on an accelerator, else the launch is most of it
_TOLD = set["Peak"]()  # of those that a step was above: the next steps are, too


@dataclass(frozen=True)
class Peak:
    """The most that a process's device could do, and how that is known."""

    flops: float  # a second
    source: str


def peak_of(device: torch.device, dtype: torch.dtype) -> Peak:
    """Returns the data sheet's figure for bf16 on a device that has one here, else the best of a few products."""
    if device.type == "cuda" and dtype == torch.bfloat16:
        name = torch.cuda.get_device_name(device)
        for part, flops in DATA_SHEETS:
            if part in name:
                return Peak(flops, f"data sheet of {name}, dense bf16")
    sizes = _SIZES if device.type == "cpu" else _SIZES_OF_ACCELERATOR
    flops, size = max((_measured(device, dtype, size), size) for size in sizes for _ in range(_ROUNDS))
    name = str(dtype).removeprefix("torch.")
    return Peak(flops, f"measured {name} product of {size}x{size} matrices, {torch.get_num_threads()} threads")


def _measured(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Trap: of ones, which move no bits, an accelerator makes more products than of anything a model holds."""
    random = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(size, size, generator=random, device=device).to(dtype) for _ in range(2))
    products = 1 if device.type == "cpu" else _PRODUCTS
    clock = Clock(device)
    result = left @ right
    result[0, 0].item()  # the library's first call, and the host's wait for it
    begun = clock.mark()
    for _ in range(products):
        result = left @ right
    span = begun, clock.mark()
    result[0, 0].item()  # until the device has done it
    return products * 2 * size**3 / seconds_of(span)


def utilisation(flops: float, seconds: float, processes: int, peak: Peak) -> float | None:
    """Returns the share of what `processes` could have done in that time; None above 1, and one error in the log.

    flops: of the global batch, counted as if each were done once: nothing computed again, no padding.
    """
    share = flops / (seconds * processes * peak.flops)
    if share <= 1:
        return share
    if peak not in _TOLD:
        _TOLD.add(peak)
        print(
            f"ERROR: an MFU of {share:.0%} cannot be: {flops:.3g} FLOP in {seconds:.3g} s on {processes} processes of "
            f"{peak.flops:.3g} FLOP/s ({peak.source}). Either of them is counted wrong; this is said once, and no "
            "such step has an MFU",
            file=sys.stderr,
        )
    return None
