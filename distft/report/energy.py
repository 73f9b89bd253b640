"""Energy of a run: the time of its attempts times the rated power of its accelerators.

An upper estimate for the accelerators, which draw less than their rated power most of the time, and nothing of the
rest of the machine; it counts the whole time of the attempts, idle steps included.
"""

import re
from dataclasses import dataclass

RATED_WATTS = {  # of one accelerator, from its maker's data sheet; the first name that is a word of the device's
    "H200": 700, "H100 PCIe": 350, "H100 NVL": 400, "H100": 700, "H800": 700, "GH200": 900, "B200": 1000, "B300": 1400,
    "A100-PCIE-40GB": 250, "A100-PCIE": 300, "A100": 400, "A800": 400, "A40": 300, "A30": 165, "A10G": 300, "A10": 150,
    "L40S": 350, "L40": 300, "L4": 72, "V100-PCIE": 250, "V100": 300, "T4": 70, "RTX 6000 Ada": 300, "RTX A6000": 300,
    "RTX 5090": 575, "RTX 4090": 450, "RTX 3090": 350, "MI325X": 1000, "MI300X": 750, "MI250X": 560, "MI210": 300,
}  # fmt: skip


@dataclass(frozen=True)
class Energy:
    """Energy in kWh, and how it is known."""

    kwh: float
    method: str


def rated_watts(device: str) -> int | None:
    """Returns the rated power of an accelerator by its name; None where it is not known."""
    names = (name for name in RATED_WATTS if re.search(rf"(?<![a-z0-9]){name}(?![a-z0-9])", device, re.IGNORECASE))
    return next((RATED_WATTS[name] for name in names), None)


def estimate(seconds: float, processes: int, device: str | None) -> Energy | str:
    """Returns the energy of so many accelerators for so long, or why it is not known."""
    if not device or device == "cpu":
        return "the run used the CPU, whose power was not metered"
    watts = rated_watts(device)
    if watts is None:
        return f"the rated power of {device} is not known"
    return Energy(watts * processes * seconds / 3.6e6, f"{processes} x {watts} W, the rated power of {device}")
