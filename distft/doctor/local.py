"""The checks that concern a single machine, by name: of the one where the command is typed, and of each node."""

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from distft.doctor import accelerator, folders, machine, network, packages
from distft.doctor.finding import Check


def local_checks(run_folders: Mapping[str, Path], nodes: int) -> dict[str, Check]:
    """Returns name -> check; run_folders: key -> folder that a run writes to."""
    return {
        "python": packages.check_python,
        "packages": packages.check_packages,
        "torch": accelerator.check_torch,
        "deepspeed": accelerator.check_deepspeed,
        "compilers": machine.check_compilers,
        "memory": machine.check_memory,
        "cores": machine.check_cores,
        "open files": machine.check_open_files,
        "shared memory": machine.check_shared_memory,
        **{name: partial(folders.check_folder, name, folder) for name, folder in run_folders.items()},
        "tmp": lambda: folders.check_folder("tmp", Path(tempfile.gettempdir()), lasts=False),
        "host name": partial(network.check_host_name, nodes),
        "name server": network.check_name_server,
        "port": network.check_port,
    }
