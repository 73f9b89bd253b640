"""Stands for a Python process that `tests.support.warm` forks: `python -IS warm_client.py ADDRESS PYTHON ARGUMENTS`.

It passes its streams, environment and signals on, and ends as the forked process does. What the server refuses it runs
as PYTHON would: the forked process has the server's limits, cores, namespaces and tracer, see `inherited`.
No import but of the standard library: it starts in 20 ms.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Collection
from contextlib import suppress
from typing import Any

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
# Lines of /proc/self/status. A tracer (strace) would not see what the server forks.
STATUS = ("TracerPid", "Uid", "Gid", "Groups", "CapEff", "NoNewPrivs", "Seccomp", "Cpus_allowed", "Mems_allowed")


def main() -> None:
    address, python, *arguments = sys.argv[1:]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)  # until there is a process to pass them on to
    is_known = arguments[:1] == ["-m"] or arguments[:2] == ["-u", "-c"]  # so does pytest-xdist start its workers
    answers = request(address, arguments, before) if is_known else None
    process = next(answers, None) if answers else None
    if not answers or process is None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.execv(python, [python, *arguments])
    for number in PASSED_ON:  # also what this process ignores: the other one may not
        signal.signal(number, lambda number, _: os.kill(process, number))
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    code = next(answers, -signal.SIGKILL)
    if code >= 0:
        os._exit(code)
    signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
    os.kill(os.getpid(), -code)


def inherited(blocked: Collection[int]) -> dict[str, str]:
    """Returns what a process has from its parent and the server cannot give to one that it forks, each as text.

    blocked: the signals that it blocks.
    """
    found = {"blocked": str(sorted(map(int, blocked))), "nice": str(os.getpriority(os.PRIO_PROCESS, 0))}
    for name in ("limits", "cgroup", "oom_score_adj", "status"):
        with suppress(OSError), open(f"/proc/self/{name}") as file:
            found[name] = file.read()
    lines = [line.partition(":") for line in found.pop("status", "").splitlines()]
    found |= {name: value for name, _, value in lines if name in STATUS}
    for link in ("root", *(f"ns/{name}" for name in os.listdir("/proc/self/ns"))):
        found[link] = os.readlink(f"/proc/self/{link}")
    return found


def request(address: str, arguments: list[str], blocked: Collection[int]) -> Any:
    """Yields the process id, and its exit code when it has ended, negative for a signal; nothing if refused."""
    umask = os.umask(0)
    os.umask(umask)
    ignored = [number for number in PASSED_ON if signal.getsignal(number) == signal.SIG_IGN]
    wanted = {
        "arguments": arguments,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "umask": umask,
        "ignored": ignored,
        "inherited": inherited(blocked),
    }
    server = socket.socket(socket.AF_UNIX)
    try:
        server.connect(address)
    except OSError:
        return
    socket.send_fds(server, [b"."], [0, 1, 2])
    server.sendall(json.dumps(wanted).encode() + b"\n")
    for line in server.makefile("rb"):
        yield json.loads(line)


if __name__ == "__main__":
    main()
