"""A whole SLURM on one machine: several nodes with pretended GPUs, in one folder, gone without a trace.

    python slurm/practice_cluster.py up|down|status [--dir DIR] [--nodes 4]

`up` prints the line that makes sbatch and distft use it. Needs the packages slurm-wlm and munge, and no systemd;
nothing is written outside DIR. As root every node is isolated: it has its own host name and processes, and can be
powered off. Other users get nodes that share the machine's.

Trap: daemons of SLURM 22 and newer are served; an option that 22.05 does not know is fatal to it.
"""

import argparse
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

DIR = Path.home() / ".cache" / "distft" / "practice-slurm"
DAEMONS = ("slurmd", "slurmstepd", "slurmctld", "munged", "unshare")  # in the order in which they end
PROGRAMS = ("munged", "slurmctld", "slurmd", "sinfo")
SECONDS_TO_COME_UP, SECONDS_TO_END = 20, 10

CONF = Path(__file__).with_name("practice.conf")
NODE = """\
NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} Boards=1 SocketsPerBoard=1 \
CoresPerSocket={cpus} ThreadsPerCore=1 RealMemory={memory} Gres=gpu:{gpus} State=UNKNOWN"""


class CannotStart(RuntimeError):
    """The cluster did not come up; the message says what is missing or which daemon ended, with its last lines."""


@dataclass(frozen=True)
class Cluster:
    """One cluster in one folder, with nodes n1, n2, ..."""

    dir: Path
    num_nodes: int = 4
    cpus: int = 8
    gpus: int = 4
    memory_mib: int = 20000

    @property
    def environment(self) -> dict[str, str]:
        """What makes SLURM's programs use this cluster."""
        return {"SLURM_CONF": str(self.dir / "slurm.conf")}

    @property
    def nodes(self) -> list[str]:
        return [f"n{number}" for number in range(1, self.num_nodes + 1)]

    @property
    def isolated(self) -> bool:
        return os.geteuid() == 0

    def start(self) -> None:
        """Returns when every node is idle; CannotStart otherwise, and then nothing is left running."""
        missing = [name for name in PROGRAMS if not shutil.which(name, path=_path())]
        if missing:
            raise CannotStart(f"{', '.join(missing)} not found. Try: apt-get install slurm-wlm munge")
        if list(self.daemons()):
            raise CannotStart(f"a cluster runs in {self.dir} already. Try: practice_cluster.py down, or --dir")
        shutil.rmtree(self.dir, ignore_errors=True)
        self._write_files()
        try:
            self._start_munge()
            self._spawn("slurmctld", ["slurmctld", "-D", "-c"])  # with nothing of an earlier cluster
            for node in self.nodes:
                self._start_node(node)
            self._wait_until(self._all_idle, "slurmctld", SECONDS_TO_COME_UP)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Cancels every job and ends every daemon; the folder with its logs stays."""
        for job in self.ask("squeue", "-h", "-o", "%A", check=False).split():
            self.ask("scancel", job, check=False)
        deadline = time.monotonic() + SECONDS_TO_END
        while self.ask("squeue", "-h", check=False).strip() and time.monotonic() < deadline:
            time.sleep(0.05)
        for name in DAEMONS:
            pids = [pid for daemon, pid in self.daemons() if daemon == name]
            # a node's init process ignores SIGTERM, and takes all that runs there with it
            _end(pids, signal.SIGKILL if self.isolated and name in ("slurmd", "unshare") else signal.SIGTERM)

    def stop_controller(self) -> None:
        """Ends the controller: jobs go on, and nothing that is asked about them is answered."""
        _end([pid for name, pid in self.daemons() if name == "slurmctld"], signal.SIGTERM)

    def start_controller(self) -> None:
        """Starts the controller again with what it knew; returns when it answers."""
        self._spawn("slurmctld", ["slurmctld", "-D"])
        up = lambda: "UP" in self.ask("scontrol", "ping", check=False)  # noqa: E731  # asked in a loop
        self._wait_until(up, "slurmctld", SECONDS_TO_COME_UP)

    def power_on(self, node: str) -> None:
        """Starts a node again after a power_off."""
        self._start_node(node, "-b")  # reported as a reboot: all nodes have this machine's uptime

    def _start_node(self, node: str, *options: str) -> None:
        command = ["slurmd", "-D", "-N", node, *options]
        if self.isolated:
            inside = f"hostname {node}; mount --bind {self.dir}/hosts/{node} /etc/hosts; exec {' '.join(command)}"
            unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--mount", "--uts"]
            command = [*unshare, "bash", "-c", inside]
        self._spawn(f"slurmd-{node}", command)

    def power_off(self, node: str) -> None:
        """Ends a node and all that runs on it at once, as a lost machine does, and reports it to the controller."""
        if not self.isolated:
            raise RuntimeError("only root's practice clusters have nodes that can be powered off")
        pids = [pid for name, pid in self.daemons() if name == "unshare" and f"hostname {node};" in _command(pid)]
        _end(pids, signal.SIGKILL)
        self.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=power")

    def ask(self, *command: str, check: bool = True) -> str:
        """Returns what one of SLURM's programs prints; RuntimeError with its words when it fails."""
        done = subprocess.run(
            command, env=os.environ | self.environment | {"PATH": _path()}, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def daemons(self) -> Iterator[tuple[str, int]]:
        """Yields name and process id of each daemon of this cluster, identified by its SLURM_CONF."""
        mark = f"SLURM_CONF={self.dir / 'slurm.conf'}".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                name = (folder / "comm").read_text().strip()
                if name in DAEMONS and mark in (folder / "environ").read_bytes().split(b"\0"):
                    yield name, int(folder.name)
            except OSError:  # it has just ended, or is another user's
                continue

    def _write_files(self) -> None:
        for name in ("munge", "state", "spool", "run", "log", "dev", "hosts"):
            (self.dir / name).mkdir(parents=True)
        for folder in (self.dir, self.dir / "munge"):
            folder.chmod(0o755)
        ports = _free_ports(1 + self.num_nodes)
        lines = [
            NODE.format(
                name=node, host=node if self.isolated else "localhost", port=ports.pop(),
                cpus=self.cpus, memory=self.memory_mib, gpus=self.gpus,
            )
            for node in self.nodes
        ]  # fmt: skip
        host = socket.gethostname().partition(".")[0]
        conf = CONF.read_text().format(
            dir=self.dir, host=host, port=ports.pop(), user=getpass.getuser(), nodes="\n".join(lines)
        )
        (self.dir / "slurm.conf").write_text(conf)
        for node in self.nodes:  # the names of other nodes do not resolve, as on many clusters
            (self.dir / "hosts" / node).write_text(f"127.0.0.1 localhost {host} {node}\n")
        for number in range(self.gpus):
            (self.dir / "dev" / f"gpu{number}").symlink_to("/dev/null")
        names = f"n[1-{self.num_nodes}]" if self.num_nodes > 1 else "n1"
        device = f"{self.dir}/dev/gpu[0-{self.gpus - 1}]" if self.gpus > 1 else f"{self.dir}/dev/gpu0"
        (self.dir / "gres.conf").write_text(f"AutoDetect=off\nNodeName={names} Name=gpu File={device}\n")
        key = self.dir / "munge" / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))

    def _start_munge(self) -> None:
        at = self.dir / "munge"
        options = {"socket": "munge.sock", "key-file": "munge.key", "pid-file": "munged.pid"}
        options |= {"log-file": "munged.log", "seed-file": "munged.seed"}
        command = ["munged", "-F", "--force", *(f"--{name}={at / file}" for name, file in options.items())]
        self._spawn("munged", [*command, "--num-threads=2"])
        self._wait_until((at / "munge.sock").exists, "munged", 5)

    def _spawn(self, name: str, command: list[str]) -> None:
        with (self.dir / "log" / f"{name}.out").open("a") as log:
            subprocess.Popen(
                command, env=os.environ | self.environment | {"PATH": _path()}, cwd=self.dir,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def _all_idle(self) -> bool:
        idle = self.ask("sinfo", "-h", "-p", "main", "-t", "idle", "-o", "%D", check=False).split()
        return sum(map(int, idle)) == self.num_nodes

    def _wait_until(self, there: Callable[[], bool], daemon: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not there():
            if time.monotonic() > deadline:
                said = "\n".join(
                    line
                    for file in sorted((self.dir / "log").glob("*"))
                    for line in [f"{file.name}:", *file.read_text(errors="replace").splitlines()[-5:]]
                )
                raise CannotStart(f"{daemon} was not ready in {seconds:.0f} s. Its logs end:\n{said}")
            time.sleep(0.05)


def _path() -> str:
    """Returns PATH with the places of daemons, which a user's own may lack."""
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _end(pids: list[int], number: signal.Signals) -> None:
    """Ends processes, by force where they do not go in time."""
    deadline = time.monotonic() + SECONDS_TO_END
    for pid in pids:
        _signal(pid, number)
    while any(_lives(pid) for pid in pids):
        if time.monotonic() > deadline:
            for pid in pids:
                _signal(pid, signal.SIGKILL)
            break
        time.sleep(0.02)


def _signal(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _lives(pid: int) -> bool:
    """Returns whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def main() -> int:
    """Returns 0, or 1 with the reason when the cluster cannot do what was asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["up", "down", "status"])
    parser.add_argument("--dir", type=Path, default=DIR)
    parser.add_argument("--nodes", type=int, default=4)
    given = parser.parse_args()
    cluster = Cluster(given.dir.absolute(), given.nodes)
    if given.what == "down":
        cluster.stop()
        return 0
    try:
        if given.what == "up":
            cluster.start()
            print(f"export SLURM_CONF={cluster.dir}/slurm.conf")
        print(cluster.ask("sinfo").rstrip())
    except RuntimeError as error:
        print(f"practice cluster: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
