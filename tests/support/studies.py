"""Small studies for tests, and a served one with a plain HTTP client."""

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distft.human_eval.__main__ import main
from distft.human_eval.study import Study

NAMES = ("zebra-run-7", "quokka-run-9")  # no answer holds them


def write_answers(path: Path, texts: Sequence[str], prompts: Sequence[str] | None = None) -> Path:
    rows = [
        {"prompt": prompts[i] if prompts else f"Question {i}?", "completion": text, "tokens": 1, "stopped": "eos"}
        for i, text in enumerate(texts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_study(folder: Path, texts: Sequence[Sequence[str]], *words: str) -> Study:
    """Creates a study in `folder`/study. texts: the answers of each system, to the same prompts."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [write_answers(folder / f"{name}.jsonl", side) for name, side in zip(NAMES, texts, strict=False)]
    given = [f"study={folder / 'study'}", f"answers={json.dumps([str(file) for file in files])}", *words]
    assert main(["create", *given]) == 0
    return Study(folder / "study")


def plain_texts(count: int) -> tuple[list[str], list[str]]:
    return [f"The first says {i}." for i in range(count)], [f"Another says {i}, at some length." for i in range(count)]


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Served:
    """A study served by `distft human_eval serve` in a process of its own."""

    def __init__(self, study: Study, port: int = 0) -> None:
        self.study = study
        self.links = json.loads(study.links_file.read_text())
        self.start(port)

    def start(self, port: int = 0) -> None:
        words = ["serve", f"study={self.study.path}", f"port={port}"]
        command = [sys.executable, "-m", "distft.human_eval", *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("serving"), line + self.process.communicate()[1]
        self.address = line.split()[3].rstrip(",")
        self.port = int(self.address.rpartition(":")[2])

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def stop(self) -> int:
        self.process.terminate()
        self.process.communicate()
        return self.process.returncode

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()

    def path(self, rater: int = 0) -> str:
        return self.links["raters"][rater]["path"]

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """Sends one request; a dict is sent as JSON. ConnectionError or HTTPException without an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, dict):
            body = json.dumps(body)
            sent.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.request("GET", path, None, **headers)

    def post(self, path: str, body: Any, **headers: str) -> Reply:
        return self.request("POST", path, body, **headers)

    def next_item(self, rater: int = 0) -> str | None:
        return self.get(self.path(rater), Accept="application/json").json["item"]

    def vote_all(self, rater: int, choose: Callable[[str], str]) -> int:
        """Accepts the first page and votes on every page; returns the number of votes."""
        self.post(f"{self.path(rater)}/consent", {})
        count = 0
        while (item := self.next_item(rater)) is not None:
            reply = self.post(f"{self.path(rater)}/vote", {"item": item, "choice": choose(item)})
            assert reply.status == 200, reply.text
            count += 1
        return count
