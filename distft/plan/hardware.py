"""The devices that a plan is for: `hardware=NAME` of a data sheet, or FILE with measured figures.

`distft plan calibrate out=FILE` writes such a file for the machine it runs on.
"""

from collections.abc import Iterator
from pathlib import Path

import yaml
from pydantic import Field

from distft.config import ConfigError
from distft.config.errors import did_you_mean, nearest
from distft.config.key import Fraction, Group, NotNegative, Positive, keys_of
from distft.data_sheets import DATA_SHEETS, DataSheet, sheet_of
from distft.paths import absolute
from distft.run import read_yaml

EFFICIENCY = 0.4  # of the peak. Published for fine-tuning on H100: 0.41 (8B LoRA, NeMo), 0.33 (8B full, torchtitan)
NETWORK_BYTES = 50e9  # a second and device: 400 Gbit/s InfiniBand, as in the machines of the data sheets


class Hardware(Group):
    """One device of a run, and its links."""

    name: str = Field(default="", description="as the plan shows it")
    memory_gib: Positive = Field(description="memory of a device in GiB")
    bf16_tflops: Positive = Field(description="10^12 operations a second of matrix products in bf16")
    fp32_tflops: Positive = Field(description="the same in fp32")
    efficiency: Fraction = Field(default=EFFICIENCY, description="share of it that a training step reaches")
    memory_gb_s: Positive = Field(description="10^9 bytes a second of the device's memory")
    link_gb_s: Positive = Field(description="10^9 bytes a second to the other devices of a machine, one way")
    network_gb_s: Positive = Field(default=NETWORK_BYTES / 1e9, description="the same to other machines, of one device")
    accelerator: bool = Field(default=True, description="false: the processes of a CPU, which compute in fp32")
    overlap: Fraction = Field(default=1.0, description="share of communication that is hidden behind computing")
    price_per_hour: NotNegative | None = Field(default=None, description="of a device, in any currency")

    def flops(self, compute_bytes: int) -> float:
        """Returns operations a second that a training step reaches."""
        return 1e12 * self.efficiency * (self.bf16_tflops if compute_bytes == 2 else self.fp32_tflops)

    def peak_flops(self, compute_bytes: int) -> float:
        return 1e12 * (self.bf16_tflops if compute_bytes == 2 else self.fp32_tflops)


def find_hardware(asked: str) -> Hardware:
    """Returns the devices of a data sheet's name, or of a YAML file; ConfigError for neither."""
    if (sheet := sheet_of(asked)) is not None:
        return of_sheet(sheet)
    file = absolute(asked)
    if not file.is_file():
        names = [each.name for each in DATA_SHEETS]
        hint = did_you_mean(nearest(asked, names)) or f" Allowed: {', '.join(names)}"
        raise ConfigError([f"hardware={asked}: is not a file, nor a device that is known here.{hint}"])
    return read_hardware(file)


def of_sheet(sheet: DataSheet) -> Hardware:
    return Hardware(
        name=sheet.name,
        memory_gib=sheet.memory_gib,
        bf16_tflops=sheet.flops / 1e12,
        fp32_tflops=sheet.fp32_flops / 1e12,
        memory_gb_s=sheet.memory_bytes / 1e9,
        link_gb_s=sheet.link_bytes / 1e9,
    )


def read_hardware(file: Path) -> Hardware:
    """Reads a YAML file; ConfigError with everything that is wrong in it."""
    try:
        values = read_yaml(file)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError([f"hardware={file}: is not YAML: {str(error).splitlines()[0]}"]) from error
    if not isinstance(values, dict):
        raise ConfigError([f"hardware={file}: is not a mapping of keys. Try: distft plan calibrate out={file}"])
    if errors := list(_wrong(file, values)):
        raise ConfigError(errors)
    return Hardware.model_validate({"name": file.stem} | values)


def _wrong(file: Path, values: dict[str, object]) -> Iterator[str]:
    known = {key.path: key for key in keys_of(Hardware)}
    for name, value in values.items():
        if name not in known:
            hint = did_you_mean(nearest(str(name), known)) or f" Allowed: {', '.join(known)}"
            yield f"{file}: {name}: there is no such key.{hint}"
        elif not known[name].fits(value):
            yield f"{file}: {name}={value}: {known[name].help}, {known[name].rule()}"
    for name, key in known.items():
        if name not in values and Hardware.model_fields[name].is_required():
            yield f"{file}: {name} is missing: {key.help}, {key.rule()}"


def memory_gib(value: str | None) -> float | None:
    """Returns the GiB of `memory_gib=`; ConfigError for what is not a number above 0."""
    try:
        number = None if value is None else float(value)
    except ValueError:
        number = 0.0
    if number is None or 0 < number < float("inf"):
        return number
    raise ConfigError([f"memory_gib={value} is not a number above 0. Try: memory_gib=80"])
