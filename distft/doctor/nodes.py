"""Checks of the nodes of an allocation, and of the connections between them and this machine.

Trap: a node that hangs must not block the others, so every request has its own timeout.
"""

import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from distft.doctor.finding import Finding, run_check
from distft.doctor.network import SECONDS_TO_CONNECT, SECONDS_TO_REDUCE, AllReduce, Place, reduced
from distft.doctor.node import Install, Listener, facts
from distft.runtime.process import start_bound

_MINUTES = 5
_CONSEQUENCE = re.compile(r"task \d+.*: (Exited|Killed|Terminated)")
SECONDS_TO_START = 60
_SECONDS_TO_IMPORT = 60


Answers = dict[str, Any]  # node -> answer, whose form depends on the question: node.QUESTIONS


class Reply(TypedDict):
    """What a node sends: an answer, or the error that prevented it."""

    node: str
    question: str
    answer: NotRequired[Any]
    error: NotRequired[str]


class NoAllocation(RuntimeError):
    """srun got no nodes, or could not start the program on them; the message is its last line."""


class Allocation:
    """The nodes that answered the last request; a node that does not answer is dropped."""

    def __init__(self, process: subprocess.Popen[str], errors: Any) -> None:
        self.nodes: list[str] = []
        self._process = process
        self._errors = errors
        self._answers: queue.Queue[Reply | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(self, question: str, seconds: float, **given: object) -> tuple[Answers, dict[str, str]]:
        """Sends a request to all nodes; returns node -> answer and node -> error."""
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps({"question": question, "given": given}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        answers, failed = self._collect(question, self.nodes, seconds)
        silent = [node for node in self.nodes if node not in answers and node not in failed]
        self.nodes = [node for node in self.nodes if node not in silent]
        return answers, failed | {node: f"no answer within {seconds:g} s{self._said()}" for node in silent}

    def meet(self, count: int) -> None:
        """Waits for `count` nodes and continues with those that join in time; NoAllocation when none do."""
        self.nodes = sorted(self._collect("here", [""] * count, SECONDS_TO_START + _SECONDS_TO_IMPORT)[0])
        if not self.nodes:
            raise NoAllocation(self._said().removeprefix(": ") or "srun said nothing")

    def _collect(self, question: str, nodes: Sequence[str], seconds: float) -> tuple[Answers, dict[str, str]]:
        answers: Answers = {}
        failed: dict[str, str] = {}
        until = time.monotonic() + seconds
        while len(answers) + len(failed) < len(nodes):
            try:
                reply = self._answers.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if reply is None:  # srun has ended
                self._answers.put(None)
                break
            if reply["question"] == question:
                if "error" in reply:
                    failed[reply["node"]] = reply["error"]
                else:
                    answers[reply["node"]] = reply.get("answer")
        return answers, failed

    def _listen(self) -> None:
        """Joins the pieces of each node's answers."""
        assert self._process.stdout
        begun: dict[str, str] = {}
        for line in self._process.stdout:
            if not line.startswith('{"node"'):
                continue
            piece = json.loads(line)
            text = begun.pop(piece["node"], "") + piece["piece"]
            if piece["last"]:
                self._answers.put(json.loads(text))
            else:
                begun[piece["node"]] = text
        self._answers.put(None)

    def _said(self) -> str:
        """Returns the most specific error line on the stderr of srun."""
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        causes = [line for line in lines if "error" in line.lower() and not _CONSEQUENCE.search(line)]
        return f": {(causes or lines)[0]}" if lines else ""


@contextmanager
def allocation(nodes: int, options: Sequence[str]) -> Iterator[Allocation]:
    """Runs the doctor's program on `nodes` nodes of a new allocation, which ends with the context."""
    command = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", f"--time={_MINUTES}"]
    command += [f"--immediate={SECONDS_TO_START}", "--job-name=distft-doctor", "--wait=0", "--kill-on-bad-exit=0"]
    command += [*options, sys.executable, "-m", "distft.doctor.node"]
    with tempfile.TemporaryFile("w+") as errors:
        process = start_bound(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        try:
            given = Allocation(process, errors)
            given.meet(nodes)
            yield given
        finally:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """Ends srun and with it the job: at the end of stdin the nodes' programs end by themselves."""
    assert process.stdin
    try:
        process.stdin.close()
        process.wait(5)
    except (OSError, subprocess.TimeoutExpired):
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


SKEW_SECONDS, MOST_SKEW_SECONDS = 1.0, 10.0
_ROUNDS = 3
_SECONDS_TO_CHECK = 300
_SECONDS = 30
_SECONDS_TO_SHOW = 5
_COMPARED: tuple[Literal["executable", "python", "distft", "commit"], ...] = (
    "executable",
    "python",
    "distft",
    "commit",
)


def check_nodes(nodes: int, options: Sequence[str], folders: Mapping[str, Path]) -> list[Finding]:
    """Returns the findings on an allocation of `nodes` nodes; folders: key -> folder that every node must share."""
    try:
        with allocation(nodes, options) as given:
            parts = {
                "nodes": lambda: check_here(given, nodes),
                "checks of the nodes": lambda: check_each(given, folders, nodes),
                **{name: lambda n=name, path=path: check_shared(given, n, path) for name, path in folders.items()},
                "clocks": lambda: check_clocks(given),
                "same install": lambda: check_same(given),
                "network": lambda: check_network(given, nodes),
            }
            return [found for name, part in parts.items() for found in run_check(name, part)]
    except NoAllocation as error:
        remedy = "launcher.partition and launcher.nodes that sinfo shows idle, or retry when the cluster is less busy"
        return [Finding("nodes", "problem", f"no allocation of {nodes}: {error}", remedy)]


def check_here(given: Allocation, nodes: int) -> Iterator[Finding]:
    """Checks that every node of the allocation runs the doctor's program."""
    if len(given.nodes) == nodes:
        yield Finding("nodes", "ok", f"{', '.join(given.nodes)} run this Python")
    else:
        seen = f"only {', '.join(given.nodes)} of {nodes} run this Python"
        yield Finding("nodes", "problem", seen, "the install on a disk that all nodes share, or sinfo -R")


def check_each(given: Allocation, folders: Mapping[str, Path], nodes: int) -> Iterator[Finding]:
    """Runs the machine checks on each node."""
    paths = {name: str(path) for name, path in folders.items()}
    answers, failed = given.ask("checks", _SECONDS_TO_CHECK, folders=paths, nodes=nodes)
    yield from _failures("checks of the nodes", failed)
    for node, found in sorted(answers.items()):
        yield from (Finding(**each).on(node) for each in found)


def check_shared(given: Allocation, name: str, folder: Path) -> Iterator[Finding]:
    """Checks that all nodes share a folder: each reads what is written here, and the reverse."""
    nonce, made = uuid.uuid4().hex, [each for each in (folder, *folder.parents) if not each.exists()]
    probe = folder / f".distft-doctor-{nonce[:8]}"
    probe.mkdir(parents=True)
    try:
        (probe / "nonce").write_text(nonce)
        os.sync()
        answers, failed = given.ask("share", _SECONDS, folder=str(probe), nonce=nonce)
        lost = failed | {node: reason for node, reason in answers.items() if reason}
        lost |= {node: "what it wrote is not seen here" for node in answers if not _shown(probe / node, nonce, lost)}
    finally:
        shutil.rmtree(probe, ignore_errors=True)
        with suppress(OSError):  # another program has written to it
            for each in made:
                each.rmdir()
    remedy = f"{name}= on a disk that all nodes mount at the same place"
    for reason, nodes in _by_value(lost):
        yield Finding(name, "problem", f"{folder} here is another folder on {', '.join(nodes)}: {reason}", remedy)
    if not lost:
        yield Finding(name, "ok", f"{folder} is the same folder here and on {', '.join(given.nodes)}")


def check_clocks(given: Allocation) -> Iterator[Finding]:
    """Checks the offset of the nodes' clocks; all are read at once, and the closest of several rounds is used."""
    rounds = [given.ask("clock", _SECONDS)[0] for _ in range(_ROUNDS)]
    yield from judge_clocks([each for each in rounds if set(each) == set(given.nodes)])


def judge_clocks(rounds: Sequence[Mapping[str, float]]) -> Iterator[Finding]:
    """Finds the node whose clock is furthest from the first one's; rounds: node -> its time, read at one moment."""
    if not rounds:
        yield Finding("clocks", "problem", "no round in which every node reported its time", "see the findings above")
        return
    first, *others = sorted(rounds[0])
    apart = {node: min((each[node] - each[first] for each in rounds), key=abs) for node in others}
    node, seconds = max(apart.items(), key=lambda each: abs(each[1]), default=(first, 0.0))
    if abs(seconds) <= SKEW_SECONDS:
        yield Finding("clocks", "ok", f"{len(rounds[0])} nodes are within {abs(seconds):.2f} s")
        return
    state = "problem" if abs(seconds) > MOST_SKEW_SECONDS else "warning"
    seen = f"{node} is {abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} {first}"
    yield Finding("clocks", state, seen, f"chronyc tracking on {node}, then chronyc makestep there")


def check_same(given: Allocation) -> Iterator[Finding]:
    """Checks that the nodes have the same Python, packages and commit as this machine."""
    answers, failed = given.ask("facts", 2 * _SECONDS)
    yield from _failures("same install", failed)
    yield from judge_same(facts(), answers)


def judge_same(here: Install, there: Mapping[str, Install]) -> Iterator[Finding]:
    """Finds what differs between this machine and the nodes; there: node -> its facts."""
    lost: list[Finding] = []
    packages = here["packages"].items()
    remedy = "one environment and checkout on a disk that all nodes share"
    for node, own in sorted(there.items()):
        differing = [(key, own[key], here[key]) for key in _COMPARED if own[key] != here[key]]
        theirs = own["packages"]
        differing += [(name, theirs.get(name), mine) for name, mine in packages if theirs.get(name) != mine]
        seen = [f"{name} is {other}, and {mine} here" for name, other, mine in differing]
        lost += [Finding("same install", "problem", each, remedy).on(node) for each in seen]
    yield from lost
    if there and not lost:
        commit = here["commit"]["commit"][:10] if here["commit"] else ""
        seen = f"Python {here['python']}, {len(here['packages'])} packages" + f", commit {commit}" * bool(commit)
        yield Finding("same install", "ok", f"{seen}: the same here and on {', '.join(sorted(there))}")


def check_network(given: Allocation, nodes: int) -> Iterator[Finding]:
    """Finds pairs of nodes that cannot connect; if all can, checks an all-reduce over them."""
    heard, failed = given.ask("hear", _SECONDS)
    yield from _failures("network", failed)
    places = {node: (each["address"], each["port"]) for node, each in heard.items()}
    answers, failed = given.ask("reach", SECONDS_TO_CONNECT + _SECONDS, places=places)
    yield from _failures("network", failed)
    lost = list(judge_reach(heard, answers))
    yield from lost
    if not lost and len(answers) == nodes:
        yield _all_reduce(given, nodes, heard, places)


def judge_reach(heard: Mapping[str, Listener], lost: Mapping[str, Mapping[str, str]]) -> Iterator[Finding]:
    """Finds each pair of nodes that cannot connect; lost: node -> other node -> why it was not reached."""
    for node, reasons in sorted(lost.items()):
        for other, reason in reasons.items():
            seen = f"{node} ({heard[node]['interface']}) cannot reach {other} at {reason}"
            remedy = f"on {node}: getent hosts {other}, the address of the fast network? GLOO_SOCKET_IFNAME, firewall"
            yield Finding("network", "problem", seen, remedy)


def _all_reduce(given: Allocation, nodes: int, heard: Mapping[str, Listener], places: Mapping[str, Place]) -> Finding:
    first = min(heard)
    endpoint = f"{heard[first]['address']}:{heard[first]['free']}"
    limit = SECONDS_TO_REDUCE
    answers, failed = given.ask("all_reduce", limit + 10, nodes=nodes, endpoint=endpoint, places=places, limit=limit)
    results = [AllReduce(**answer) for answer in answers.values()]
    reasons = [reason for each in results for reason in each.failed.split("; ") if reason]
    reasons += [f"{node}: {reason}" for node, reason in failed.items()]
    first = results[0] if results else AllReduce()
    found = reduced(replace(first, failed="; ".join(dict.fromkeys(reasons))))
    return found if reasons else Finding(found.check, "ok", f"{', '.join(sorted(answers))}: {found.seen}")


def _shown(file: Path, text: str, lost: Mapping[str, str]) -> bool:
    """Returns whether a file that a node reports as written is visible here."""
    until = time.monotonic() + (0 if file.name in lost else _SECONDS_TO_SHOW)
    while True:
        if file.is_file() and file.read_text() == text:
            return True
        if time.monotonic() >= until:
            return file.name in lost
        time.sleep(0.1)


def _failures(check: str, failed: Mapping[str, str]) -> Iterator[Finding]:
    for reason, nodes in _by_value(failed):
        yield Finding(check, "problem", f"{', '.join(nodes)}: {reason}", "sinfo -R, and the node's own log")


def _by_value(reasons: Mapping[str, str]) -> Iterable[tuple[str, list[str]]]:
    nodes: dict[str, list[str]] = defaultdict(list)
    for node, reason in sorted(reasons.items()):
        nodes[reason].append(node)
    return nodes.items()
