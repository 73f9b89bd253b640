"""`hardware=` names a data sheet or a file; what is wrong in a file is said all at once."""

from pathlib import Path

import pytest
import yaml

from distft.config import ConfigError
from distft.data_sheets import DATA_SHEETS, sheet_of
from distft.plan.hardware import Hardware, find_hardware, memory_gib

MEASURED = {"memory_gib": 11, "bf16_tflops": 0.1, "fp32_tflops": 0.2, "memory_gb_s": 10, "link_gb_s": 1.5}


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA A100-SXM4-40GB", "A100-SXM4-40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("rtx4090", "RTX 4090"),
        ("h200", "H200"),
        ("AMD Instinct MI300X", "MI300X"),
    ],
)
def test_a_device_is_found_by_its_drivers_name(asked: str, name: str) -> None:
    found = sheet_of(asked)
    assert found is not None and found.name == name


def test_an_unknown_device_has_no_data_sheet() -> None:
    assert sheet_of("NVIDIA GeForce GTX 1080") is None
    for sheet in DATA_SHEETS:
        assert find_hardware(sheet.name).memory_gib == sheet.memory_gib


def test_a_file_is_read_with_its_defaults(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(MEASURED))
    found = find_hardware(str(tmp_path / "mine.yaml"))
    assert found.name == "mine" and found.flops(4) == pytest.approx(0.4 * 0.2e12) and found.overlap == 1.0
    assert found.peak_flops(2) == pytest.approx(0.1e12)


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("- a list", ["is not a mapping"]),
        ("a: [", ["is not YAML"]),
        (
            yaml.safe_dump({**MEASURED, "memory_gib": -1, "link_gbs": 3, "efficiency": 1.5}),
            ["memory_gib=-1", "link_gbs: there is no such key. Did you mean link_gb_s", "efficiency=1.5"],
        ),
        ("name: mine", ["memory_gib is missing", "link_gb_s is missing"]),
    ],
)
def test_all_that_is_wrong_in_a_file_is_said(text: str, rules: list[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        find_hardware(str(file))
    assert all(rule in str(raised.value) for rule in rules) and str(file) in str(raised.value)


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="hardware=h10: .* Did you mean H100"):
        find_hardware("h10")
    with pytest.raises(ConfigError, match="Try: memory_gib=80"):
        memory_gib("0")
    assert memory_gib(None) is None and memory_gib("24") == 24.0


def test_every_figure_of_a_device_is_above_zero() -> None:
    for sheet in DATA_SHEETS:
        assert isinstance(find_hardware(sheet.name), Hardware)
        assert sheet.flops >= sheet.fp32_flops > 0 and sheet.memory_bytes > sheet.link_bytes > 0
