"""A conversation with every node of an allocation through one srun: questions on its stdin, answers on its stdout.

Trap: a node that hangs must not keep the others waiting, so every question has its own end.
"""

import json
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from distft.runtime.parent import start_bound

_MINUTES = 5
_CONSEQUENCE = re.compile(r"task \d+.*: (Exited|Killed|Terminated)")
SECONDS_TO_START = 60
_SECONDS_TO_IMPORT = 60


class NoAllocation(RuntimeError):
    """srun gave no nodes, or could not start the program on them; the message is its last line."""


class Allocation:
    """The nodes that answered the last question; one that fails to answer is not waited for again."""

    def __init__(self, process: subprocess.Popen[str], errors: Any) -> None:
        self.nodes: list[str] = []
        self._process = process
        self._errors = errors
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(self, question: str, seconds: float, **given: Any) -> tuple[dict[str, Any], dict[str, str]]:
        """Returns node -> answer and node -> why there is none."""
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
        """Returns when `count` nodes are here, or those that came in time; NoAllocation when none did."""
        self.nodes = sorted(self._collect("here", [""] * count, SECONDS_TO_START + _SECONDS_TO_IMPORT)[0])
        if not self.nodes:
            raise NoAllocation(self._said().removeprefix(": ") or "srun said nothing")

    def _collect(self, question: str, nodes: Sequence[str], seconds: float) -> tuple[dict[str, Any], dict[str, str]]:
        answers: dict[str, Any] = {}
        failed: dict[str, str] = {}
        until = time.monotonic() + seconds
        while len(answers) + len(failed) < len(nodes):
            try:
                told = self._answers.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if told is None:  # srun has ended
                self._answers.put(None)
                break
            if told["question"] == question:
                if "error" in told:
                    failed[told["node"]] = told["error"]
                else:
                    answers[told["node"]] = told["answer"]
        return answers, failed

    def _listen(self) -> None:
        """Puts the pieces of each node's answers together."""
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
        """Returns the most telling line that srun, or a node through it, left on stderr."""
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        causes = [line for line in lines if "error" in line.lower() and not _CONSEQUENCE.search(line)]
        return f": {(causes or lines)[0]}" if lines else ""


@contextmanager
def allocation(nodes: int, options: Sequence[str]) -> Iterator[Allocation]:
    """Gives the doctor's program on each of `nodes` nodes of a fresh allocation, which ends with the context."""
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
