"""A site's profile fills in launcher keys below the command line, and is checked like it."""

from pathlib import Path
from typing import Any

import pytest

from distft.config import ConfigError, compose

PROFILE = """\
partition: gpu
account: 0123
time: 12:00:00
memory: 0
nodes: 2-4
exclude: [n1, "n,2"]
flags: {reservation: course, exclusive: true}
modules: [cuda/12.4]
environment: module
qos: null
"""


def launcher(right: list[str], *overrides: str) -> dict[str, Any]:
    return compose([*right, "launcher=slurm", *overrides]).values["launcher"]


def errors_of(right: list[str], *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        launcher(right, *overrides)
    return caught.value.messages


def write(folder: Path, text: str) -> str:
    (folder / "my site (1).yaml").write_text(text)
    return f"launcher.profile={folder / 'my site (1).yaml'}"


def test_every_kind_of_value_arrives_as_it_was_written(right: list[str], tmp_path: Path):
    found = launcher(right, write(tmp_path, PROFILE))
    assert (found["partition"], found["time"], found["memory"], found["nodes"]) == ("gpu", "12:00:00", 0, "2-4")
    assert found["exclude"] == ["n1", "n,2"] and found["modules"] == ["cuda/12.4"] and found["qos"] is None
    assert found["flags"] == {"reservation": "course", "exclusive": True}


def test_the_command_line_comes_on_top_wherever_it_stands(right: list[str], tmp_path: Path):
    profile = write(tmp_path, PROFILE)
    for overrides in ([profile, "launcher.partition=cpu"], ["launcher.partition=cpu", profile]):
        found = launcher(right, *overrides)
        assert (found["partition"], found["account"]) == ("cpu", "0123")


def test_an_unknown_key_is_named_with_its_file_and_the_nearest(right: list[str], tmp_path: Path):
    profile = write(tmp_path, "partion: gpu\ncpu_per_process: 4\n")
    errors = errors_of(right, profile)
    file = profile.partition("=")[2]
    assert errors[0].startswith(f"{file}: launcher.partion=gpu: ") and errors[0].endswith(
        "Did you mean launcher.partition?"
    )
    assert errors[1].startswith(f"{file}: launcher.cpu_per_process=4: ")
    assert errors[1].endswith("Did you mean launcher.cpus_per_process?")


def test_a_wrong_type_is_named_with_its_key(right: list[str], tmp_path: Path):
    [error] = errors_of(right, write(tmp_path, "wait: perhaps\n"))
    assert error.startswith("launcher.wait=perhaps is not true or false. The default is true.")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- partition\n", "is no mapping of launcher keys"),
        ("partition: [\n", "cannot be read"),
        ("profile: other.yaml\n", "names another profile"),
    ],
)
def test_what_is_no_profile_is_refused_with_its_file(text: str, said: str, right: list[str], tmp_path: Path):
    profile = write(tmp_path, text)
    [error] = errors_of(right, profile)
    assert error.startswith(f"{profile}: ") and said in error


def test_a_missing_file_is_refused(right: list[str], tmp_path: Path):
    [error] = errors_of(right, f"launcher.profile={tmp_path}/none.yaml")
    assert error.startswith(f"launcher.profile={tmp_path}/none.yaml: cannot be read: ") and "No such file" in error
