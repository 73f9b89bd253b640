"""The doctor on one node of an allocation: answers requests, JSON lines on stdin, until stdin is closed.

srun carries requests and answers, so the nodes need neither name resolution nor a shared folder.
"""

import json
import os
import platform
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TextIO, TypedDict

from distft.doctor import machine, network
from distft.doctor.finding import Check, Ended, ask_program, run_check
from distft.doctor.machine import versions
from distft.doctor.network import listen, own_address, unreachable
from distft.paths import PACKAGE
from distft.runtime.environment import Commit, describe


def local_checks(run_folders: Mapping[str, Path], nodes: int) -> dict[str, Check]:
    """Returns name -> check; run_folders: key -> folder that a run writes to."""
    return {
        "python": machine.check_python,
        "packages": machine.check_packages,
        "torch": machine.check_torch,
        "deepspeed": machine.check_deepspeed,
        "compilers": machine.check_compilers,
        "memory": machine.check_memory,
        "cores": machine.check_cores,
        "open files": machine.check_open_files,
        "shared memory": machine.check_shared_memory,
        **{name: partial(machine.check_folder, name, folder) for name, folder in run_folders.items()},
        "tmp": lambda: machine.check_folder("tmp", Path(tempfile.gettempdir()), lasts=False),
        "host name": partial(network.check_host_name, nodes),
        "name server": network.check_name_server,
        "port": network.check_port,
    }


_SECONDS_TO_SHOW = 5  # delay until a shared disk shows a new file
_PIECE = 400  # characters per piece; JSON inside JSON at most doubles them


def node_name() -> str:
    """Returns SLURM's name of this node; several nodes may share one machine and host name."""
    return os.environ.get("SLURMD_NODENAME") or platform.node()


class Install(TypedDict):
    """What must be equal on all nodes."""

    executable: str
    python: str
    distft: str  # its folder
    commit: Commit | None  # None outside of a checkout
    packages: dict[str, str | None]


def facts() -> Install:
    """Returns the facts that must be equal on all nodes."""
    about = describe()
    return {
        "executable": sys.executable,
        "python": about["python"],
        "distft": str(PACKAGE),
        "commit": about["git"],
        "packages": versions(),
    }


def checks(folders: dict[str, str], nodes: int) -> list[dict[str, str]]:
    """Returns the findings of the machine checks on this node."""
    own = local_checks({name: Path(path) for name, path in folders.items()}, nodes)
    return [found.as_json() for name, check in own.items() for found in run_check(name, check)]


def share(folder: str, nonce: str) -> str:
    """Reads the nonce written elsewhere and writes this node's; returns why that failed, empty on success."""
    given, seen = Path(folder) / "nonce", ""
    until = time.monotonic() + _SECONDS_TO_SHOW
    while seen != nonce:
        try:
            seen = given.read_text()
        except OSError as error:
            if time.monotonic() > until:
                return f"{error.strerror}: {given}"
            time.sleep(0.1)
            continue
        if seen != nonce and time.monotonic() > until:
            return f"another file is {given}"
    (Path(folder) / node_name()).write_text(nonce)
    return ""


def clock() -> float:
    return time.time()


class Listener(TypedDict):
    """Where a node accepts connections."""

    interface: str
    address: str
    port: int
    free: int  # another port, that nothing listens on


def hear() -> Listener:
    """Starts to listen; returns this node's address, its port and a free one."""
    interface, address = own_address("gloo")
    _, port = listen(address)
    with socket.create_server((address, 0)) as free:
        return {"interface": interface, "address": address, "port": port, "free": free.getsockname()[1]}


def reach(places: dict[str, tuple[str, int]]) -> dict[str, str]:
    return unreachable(places)


def all_reduce(nodes: int, endpoint: str, places: dict[str, tuple[str, int]], limit: float) -> Mapping[str, object]:
    """Runs this node's part of the all-reduce over all nodes; the first node by name holds the endpoint."""
    me = node_name()
    options = ["--nodes", str(nodes), "--node", str(sorted(places).index(me)), "--endpoint", endpoint]
    options += ["--address", places[me][0], "--seconds", str(limit - 5)]
    try:
        return ask_program("distft.doctor.all_reduce", *options, seconds=limit)
    except Ended as ended:
        return asdict(network.AllReduce(failed=f"{me}: {ended}"))


QUESTIONS: dict[str, Callable[..., Any]] = {
    each.__name__: each for each in (facts, checks, share, clock, hear, reach, all_reduce)
}


def send(answer: Mapping[str, object], answers: TextIO) -> None:
    """Writes an answer in lines below 1,024 bytes: srun interleaves longer lines of several nodes."""
    text = json.dumps(answer)
    pieces = [text[start : start + _PIECE] for start in range(0, len(text), _PIECE)]
    for number, piece in enumerate(pieces, 1):
        line = json.dumps({"node": node_name(), "piece": piece, "last": number == len(pieces)})
        print(line, file=answers, flush=True)


def main() -> None:
    """Answers each request; the answer to one that raises is its error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # all other output goes to stderr
    send({"node": node_name(), "question": "here", "answer": True}, answers)
    for line in sys.stdin:
        asked = json.loads(line)
        answer: dict[str, object] = {"node": node_name(), "question": asked["question"]}
        try:
            answer["answer"] = QUESTIONS[asked["question"]](**asked["given"])
        except Exception as error:  # reported as the answer
            answer["error"] = f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"
        send(answer, answers)


if __name__ == "__main__":
    main()
