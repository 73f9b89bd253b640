"""What the parsers make of recorded outputs; recorded/README.md has where each format was seen."""

from pathlib import Path

import pytest

from distft.doctor.preflight_node import diagnosis, kernel_log, link_errors, memory_errors, troubles

RECORDED = Path(__file__).with_name("recorded")


def recorded(name: str) -> str:
    return (RECORDED / name).read_text()


def test_the_hardwares_xids_of_the_last_day_are_told_and_a_programs_are_not():
    found = {each.gpu: each for each in kernel_log(recorded("dmesg.txt"), uptime_seconds=100_000)}
    assert {gpu: each.is_fatal for gpu, each in found.items()} == {
        "0000:9b:00": False,  # contained: the one job that met it has ended
        "0000:44:00": True,
        "0019:01:00": True,
        "0018:01:00": False,
    }
    assert found["0000:44:00"].what == "Xid 79: GPU has fallen off the bus"
    assert "0000:0a:00" in {each.gpu for each in kernel_log(recorded("dmesg.txt"), uptime_seconds=2000)}


def test_a_gpu_off_the_bus_without_an_xid_is_told_once():
    [found] = kernel_log(recorded("dmesg-off-bus.txt"), uptime_seconds=2000)
    assert (found.gpu, found.is_fatal) == ("0000:b3:00.0", True) and "fallen off the bus" in found.what


def test_errors_of_memory_since_the_driver_was_loaded_count_and_older_ones_do_not():
    found = list(memory_errors(recorded("smi-ecc.txt")))
    fatal = {(each.gpu, each.what) for each in found if each.is_fatal}
    assert fatal == {
        ("00000000:64:00.0", "4 uncorrectable ECC errors (SRAM Uncorrectable SEC-DED)"),
        ("00000000:64:00.0", "more SRAM errors than its maker allows"),
        ("00000000:64:00.0", "a row of its memory could not be remapped"),
    }
    pending = [each.gpu for each in found if not each.is_fatal]
    assert pending == ["00000000:53:00.0", "00000000:75:00.0"]


def test_a_link_that_is_down_beside_others_is_fatal_and_one_that_recovered_is_noted():
    [recovered] = link_errors(recorded("nvlink-e.txt"))
    assert (recovered.gpu, recovered.is_fatal) == ("0", False) and "NVLink 1" in recovered.what
    [down] = link_errors(recorded("nvlink-s.txt"))
    assert (down.gpu, down.what, down.is_fatal) == ("1", "NVLink 1 is down", True)


@pytest.mark.parametrize(
    ("file", "fatal", "noted"),
    [("dcgmi-3.json", [("1", "DCGM's PCIe failed: GPU 1's PCIe link runs at generation 3")], []),
     ("dcgmi-4.json", [("3", "DCGM's memory failed: a value was read back wrong")], ["0"])],
)  # fmt: skip
def test_what_dcgms_diagnostic_failed_is_told_in_both_of_its_forms(file: str, fatal: list, noted: list):
    found = list(diagnosis(f"Warning: a line before it\n{recorded(file)}"))
    assert [(each.gpu, each.what) for each in found if each.is_fatal] == fatal
    assert [each.gpu for each in found if not each.is_fatal] == noted


@pytest.mark.parametrize("parse", [kernel_log, memory_errors, link_errors, diagnosis])
@pytest.mark.parametrize(
    "text", ["", "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", "{"]
)
def test_what_says_nothing_is_no_trouble(parse, text: str):
    assert list(parse(text)) == []


def test_programs_that_are_asked_are_those_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, text in (("nvidia-smi", recorded("nvlink-s.txt")), ("dcgmi", recorded("dcgmi-4.json"))):
        (tmp_path / name).write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "dmesg").write_text(
        "#!/bin/sh\necho 'dmesg: read kernel buffer failed: Operation not permitted' >&2\nexit 1\n"
    )
    (tmp_path / "dmesg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert [(each.gpu, each.what) for each in troubles() if each.is_fatal] == [
        ("1", "NVLink 1 is down"),
        ("3", "DCGM's memory failed: a value was read back wrong"),
    ]
