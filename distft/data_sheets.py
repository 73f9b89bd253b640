"""Accelerators by their data sheets: memory, peak speed and links, as their makers publish them.

The figures are of the SXM or OAM form where there are several, dense (without sparsity), and links one way.
Sources: the data sheets of NVIDIA (A10G: of the AWS G5 pages; RTX 4090: the Ada whitepaper) and AMD. Memory is what the
driver reports for the smaller variant of the name, in GiB.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSheet:
    """One kind of device."""

    name: str  # part of the name that the driver reports
    memory_gib: float
    flops: float  # a second, dense products in bf16 with sums in fp32
    fp32_flops: float  # a second, products in fp32 without TF32
    memory_bytes: float  # a second, of the device's own memory
    link_bytes: float  # a second and device, one way, to the others of a machine


DATA_SHEETS = (  # the first whose name is part of a device's is taken
    DataSheet("GH200", 95.6, 989e12, 67e12, 4.0e12, 450e9),
    DataSheet("H200", 139.8, 989e12, 67e12, 4.8e12, 450e9),
    DataSheet("H100 PCIe", 79.6, 756e12, 51e12, 2.0e12, 64e9),
    DataSheet("H100", 79.6, 989e12, 67e12, 3.35e12, 450e9),
    DataSheet("B200", 178.4, 2250e12, 75e12, 7.7e12, 900e9),
    DataSheet("A100-SXM4-40GB", 39.6, 312e12, 19.5e12, 1.555e12, 300e9),
    DataSheet("A100", 79.3, 312e12, 19.5e12, 2.039e12, 300e9),
    DataSheet("L40S", 44.5, 362e12, 91.6e12, 0.864e12, 32e9),
    DataSheet("A10G", 22.1, 70e12, 31.2e12, 0.6e12, 32e9),
    DataSheet("RTX 4090", 23.6, 165e12, 82.6e12, 1.008e12, 32e9),
    DataSheet("MI300X", 191.5, 1307e12, 163e12, 5.3e12, 448e9),
    DataSheet("MI250X", 64.0, 191.5e12, 47.9e12, 1.6e12, 300e9),
)


def sheet_of(device: str) -> DataSheet | None:
    """Returns the data sheet of a device by the name that its driver reports, or that a person types."""
    asked = _letters(device)
    return next((each for each in DATA_SHEETS if _letters(each.name) in asked), None)


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold()))
