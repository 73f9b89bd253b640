"""A Python whose imports are done: `python()` starts `-m` of distft and of the tests in 20 ms instead of 1 to 8 s.

The workers of pytest-xdist start from it as well, and use the same server.

The processes are forked from a server that has imported torch, transformers, deepspeed and distft. They are real ones,
with their own streams, environment, folder and signals, and end when the process that stands for them does. What reads
the environment as it is imported, and every other program, runs in a Python of its own.
"""

import atexit
import importlib
import io
import json
import os
import pkgutil
import runpy
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import IO, Any, NoReturn

from distft.compat.interpreter import end_threads, forget_exit_functions, run_exit_functions
from distft.runtime.logs import QUIET_VARIABLES
from distft.runtime.process import die_with_parent, uncollected
from tests.support.warm_client import inherited

CHECKOUT = Path(__file__).parents[2]
OTHERS = ("pandas", "PIL.PngImagePlugin", "rich.progress", "rich.table")  # imported on first use
ROOMS = ("audit", "config", "data", "evaluate", "export", "generate", "human_eval", "launch", "launchers", "plan")
ROOMS += ("report", "sweep")

# Variables that libraries read while they are imported: with others than the server's, a process imports them itself.
# So does a job of SLURM, whose processes its daemons count and signal.
AT_IMPORT = ("CUDA_", "DS_", "HF_", "HOME", "HYDRA_", "LC_", "LD_", "MALLOC_", "MPL", "SLURM_JOB", "TORCH_")
AT_IMPORT += ("TRANSFORMERS_", "TZ")
# What a command gives libraries itself, and what lm_eval sets as a test imports it: it makes no difference whether the
# environment of a command has it already.
OF_COMMANDS = QUIET_VARIABLES | {"HF_DATASETS_OFFLINE": "1", "HF_XET_HIGH_PERFORMANCE": "1"}
# Set, but empty, they hide devices; where there are none, it makes no difference.
HIDDEN = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
SHARED = "WARM_PYTHON"  # the path that the process of pytest gives its workers
SEPARATE = {"HF_TOKEN", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}


_starting = Lock()


def python(**variables: str) -> str:
    """Returns the path of a Python for `-m`; its server starts with the first call and ends with this process.

    variables: of the environment, which libraries read as they are imported; each set of them has its own server.
    """
    with _starting:
        return _start(tuple(variables.items()))


@cache
def _start(variables: tuple[tuple[str, str], ...]) -> str:
    if not variables and SHARED in os.environ:
        return os.environ[SHARED]
    if not hasattr(os, "pidfd_open"):
        return sys.executable
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    address, program = folder / "socket", folder / "python"
    client = [sys.executable, "-IS", str(Path(__file__).with_name("warm_client.py")), str(address), sys.executable]
    program.write_text(f'#!/bin/sh\nexec {shlex.join(client)} "$@"\n')
    program.chmod(0o755)
    own, its = socket.socketpair()
    with its, (folder / "log").open("w") as log:
        arguments = [str(address), str(program), str(its.fileno())]
        server = begin_anew(arguments, its, log, **dict(variables)) if variables else begin(arguments, its, log)
    assert own.recv(1), (folder / "log").read_text()
    atexit.register(_end, own, server)
    return str(program)


@contextmanager
def warm_children() -> Iterator[None]:
    """Makes this process start what it would with sys.executable with the warm Python meanwhile."""
    before, sys.executable = sys.executable, python()
    try:
        yield
    finally:
        sys.executable = before


def _end(own: socket.socket, server: int) -> None:
    """Ends a server, and waits, so that its processor time counts as that of this process's children."""
    own.shutdown(socket.SHUT_RDWR)  # not close: a forked process may have it, too
    with suppress(ChildProcessError):
        os.waitpid(server, 0)


def begin_anew(arguments: list[str], its: socket.socket, log: IO[str], **variables: str) -> int:
    """Starts the server, whose end of the connection to this process is `its`; returns its process id."""
    command = [sys.executable, "-m", "tests.support.warm", *arguments]
    environment = os.environ | variables
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
    return subprocess.Popen(command, env=environment, pass_fds=[its.fileno()], **streams).pid


begin = begin_anew  # tests.support.planted has another


def begin_by_fork(arguments: list[str], its: socket.socket, log: IO[str]) -> int:
    """Does the same, without importing again what this process has imported."""
    if not (server := os.fork()):
        try:
            os.closerange(3, its.fileno())
            main(arguments)
        finally:
            os._exit(0)
    return server


class Server:
    """Forks processes for those who connect."""

    def __init__(self, address: str, program: str, parent: socket.socket) -> None:
        """parent: of the process that this one ends with."""
        self.program = program
        self.environment = dict(os.environ)
        self.has_devices = True  # until it is known
        self.inherited = inherited(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        self.own = [os.getcwd(), "", *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(address)
        self.listener.listen(64)
        self.ready = selectors.DefaultSelector()
        self.ready.register(self.listener, selectors.EVENT_READ)
        self.parent = parent
        self.ready.register(parent, selectors.EVENT_READ)
        self.processes: dict[socket.socket, tuple[int, int]] = {}  # id and descriptor of the process of a connection

    def serve(self) -> None:
        while True:
            for key, _ in self.ready.select():
                if key.fileobj is self.parent:
                    return
                if key.fileobj is self.listener:
                    self.begin(self.listener.accept()[0])
                elif isinstance(key.fileobj, socket.socket):
                    self.abandon(key.fileobj)
                else:
                    self.end(key.data)

    def begin(self, client: socket.socket) -> None:
        streams: list[int] = []
        try:
            _, streams, *_ = socket.recv_fds(client, 1, 3)
            wanted = json.loads(client.makefile("rb").readline())
        except (ValueError, OSError):  # it has ended
            wanted = None
        if wanted and self.is_warm(wanted):
            process = os.fork()
            if not process:
                self.become(wanted, streams)
            descriptor = os.pidfd_open(process)
            self.processes[client] = process, descriptor
            self.ready.register(client, selectors.EVENT_READ)
            self.ready.register(descriptor, selectors.EVENT_READ, client)
            answer(client, process)
        else:
            client.close()
        for stream in streams:
            os.close(stream)

    def abandon(self, client: socket.socket) -> None:
        """Kills the process that a client has stood for until it ended."""
        if client in self.processes:  # unless both have ended since the events were read
            os.kill(self.processes[client][0], signal.SIGKILL)
            self.ready.unregister(client)

    def end(self, client: socket.socket) -> None:
        process, descriptor = self.processes.pop(client)
        answer(client, os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
        self.ready.unregister(descriptor)
        if client in self.ready.get_map():
            self.ready.unregister(client)
        os.close(descriptor)
        client.close()

    def is_warm(self, wanted: dict[str, Any]) -> bool:
        """Returns whether a Python of its own would import what is imported here, and have the limits of this one."""
        if wanted["inherited"] != self.inherited:
            return False
        theirs = dict(wanted["environment"])
        if not self.has_devices:
            for name in HIDDEN:
                if theirs.get(name) == "" and name not in self.environment:
                    del theirs[name]
        names = [n for n in {*theirs, *self.environment} if n.startswith((*AT_IMPORT, "PYTHON")) and n not in SEPARATE]
        # What imports have set since, such as DS_ACCELERATOR, is the same in either case.
        known = (self.environment, os.environ, OF_COMMANDS)
        return all(
            theirs.get(name) in [each.get(name) for each in known] or (name in OF_COMMANDS and name not in theirs)
            for name in names
        )

    def become(self, wanted: dict[str, Any], streams: list[int]) -> NoReturn:
        """Goes on as `python ARGUMENTS` would."""
        code = 1
        try:
            die_with_parent(os.getppid())
            os.setsid()
            forget_exit_functions()
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_IGN if number in wanted["ignored"] else signal.SIG_DFL)
            for number in (signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_IGN)
            if signal.SIGINT not in wanted["ignored"]:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            os.closerange(3, 1024)
            os.umask(wanted["umask"])
            os.chdir(wanted["folder"])
            os.environ.clear()
            os.environ.update(wanted["environment"])
            self.set_up(wanted["arguments"])
            run_main(wanted["arguments"])
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
            if isinstance(error.code, str):
                print(error.code, file=sys.stderr)
        except KeyboardInterrupt:
            traceback.print_exc()
            code = -signal.SIGINT
        except BaseException:
            traceback.print_exc()
        leave(code)

    def set_up(self, arguments: list[str]) -> None:
        import torch

        added = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        sys.path[:] = [os.getcwd(), *filter(None, added), *(path for path in sys.path if path not in self.own)]
        sys.argv = arguments[1:]
        if arguments[0] == "-m":  # so that what a command starts has its imports done, too
            sys.executable = self.program
        sys.stdin = sys.__stdin__ = open(0)  # noqa: SIM115  # pyright: ignore[reportAttributeAccessIssue]
        for number, name in enumerate(("stdout", "stderr"), 1):
            stream = open(number, "w", errors="backslashreplace" if number == 2 else None)  # noqa: SIM115
            stream.reconfigure(line_buffering=number == 2 or stream.isatty())
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        if threads := os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]:
            torch.set_num_threads(int(threads))  # its library has read the variable long ago


def run_main(arguments: list[str]) -> None:
    """Runs `-m NAME`, or `-u -c PROGRAM`, as the main module."""
    if arguments[0] == "-m":
        for module in (arguments[1], f"{arguments[1]}.__main__"):
            if not hasattr(sys.modules.get(module), "__path__"):
                sys.modules.pop(module, None)  # it is the main module now
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments[1:2]
        sys.modules["__main__"] = ModuleType("__main__")
        exec(arguments[2], vars(sys.modules["__main__"]))


def leave(code: int) -> NoReturn:
    """Ends as the interpreter does, but without its teardown."""
    try:
        end_threads()
        run_exit_functions()
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = code or 120
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 0xFF)


def load() -> None:
    """Imports what commands of distft import, and does once what is slow only the first time: a config, a drawing."""
    from tests.support import preload  # noqa: F401

    with uncollected():
        for name in OTHERS:
            importlib.import_module(name)
        for room in ROOMS:
            for found in pkgutil.walk_packages([f"{CHECKOUT}/distft/{room}"], f"distft.{room}."):
                if not found.name.endswith("__main__"):
                    importlib.import_module(found.name)
        from matplotlib.figure import Figure

        from distft.config.compose import Groups
        from distft.paths import conf_dir

        for choices in ([], ["model=gpt2"]):
            Groups(conf_dir()).compose(choices)
        figure = Figure(layout="constrained")
        figure.add_subplot().set_title("a title")
        for form in ("svg", "png"):
            figure.savefig(io.BytesIO(), format=form)


def has_devices() -> bool:
    import torch

    return torch.accelerator.current_accelerator() is not None


def answer(client: socket.socket, number: int) -> None:
    with suppress(OSError):  # it has ended
        client.sendall(json.dumps(number).encode() + b"\n")


def main(arguments: list[str]) -> None:
    address, program, descriptor = arguments
    parent = socket.socket(fileno=int(descriptor))
    server = Server(address, program, parent)
    load()
    server.has_devices = has_devices()
    parent.sendall(b".")
    server.serve()


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)  # without the interpreter's teardown
