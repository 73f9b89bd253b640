"""Round trips of votes: `python -m benchmarks.votes` prints a Markdown table.

Simulated raters open a page, think, and vote, each over a connection of its own, against `distft human_eval serve` in a
process of its own. A vote's round trip ends with the answer that it is committed. A timer that does nothing but sleep
runs meanwhile in the same process: how late it wakes is what the machine's other load adds to every figure.
"""

import http.client
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.measurement import code, table
from distft.config import ConfigError, command
from distft.config.command import keywords, usage
from distft.human_eval.arguments import Arguments
from distft.run import read_json

KEYS = {
    "raters": "who vote at the same time (default 20)",
    "votes": "of each rater (default 60)",
    "think": "seconds between a page and its vote, from half to one and a half times so long (default 1)",
}
CLAIM = "Prints the round trips of votes and of pages in milliseconds: median, 95th percentile, largest."


def write_study(folder: Path, raters: int, votes: int) -> Path:
    """Creates a study with so many pages for each rater; answers have 300 words."""
    rng = random.Random(0)
    files = []
    for name in ("one", "other"):
        words = [
            " ".join(rng.choices(["alpha", "**beta**", "`gamma`", "delta\n\n- item"], k=300)) for _ in range(votes)
        ]
        rows = [json.dumps({"prompt": f"Question {i}?", "completion": text}) for i, text in enumerate(words)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
        files.append(str(folder / f"{name}.jsonl"))
    given = [f"study={folder / 'study'}", f"answers={json.dumps(files)}", f"raters={raters}", f"overlap={raters}"]
    words = ["create", *given, "practice=none", "repeat=0", "attention=0"]
    subprocess.run([sys.executable, "-m", "distft.human_eval", *words], check=True, stdout=subprocess.DEVNULL)
    return folder / "study"


def rate(port: int, path: str, votes: int, think: float, out: Mapping[str, list[float]]) -> None:
    """Votes like one rater; adds seconds per round trip to `out`."""
    rng = random.Random(path)
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def send(kind: str, method: str, address: str, body: dict[str, str] | None = None, **headers: str) -> bytes:
        begin = time.perf_counter()
        connection.request(method, address, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        data = answer.read()
        out[kind].append(time.perf_counter() - begin)
        if answer.status != 200:
            raise RuntimeError(f"{address}: {answer.status} {data[:200]!r}")
        return data

    as_json = {"Content-Type": "application/json"}
    send("other", "POST", f"{path}/consent", {}, **as_json)
    for _ in range(votes):
        page = send("page", "GET", path).decode()
        item = page.partition('name="item" value="')[2].partition('"')[0]
        time.sleep(think * rng.uniform(0.5, 1.5))
        send("vote", "POST", f"{path}/vote", {"item": item, "choice": rng.choice("ab")}, **as_json)
    connection.close()


def watch(stop: threading.Event, late: list[float]) -> None:
    """Notes how late a sleep of 10 ms ends, until `stop`."""
    while not stop.is_set():
        begin = time.perf_counter()
        time.sleep(0.01)
        late.append(time.perf_counter() - begin - 0.01)


def main(arguments: list[str]) -> int:
    read = Arguments(keywords(arguments, KEYS, required=()))
    raters, votes, think = read.integer("raters", 20, 1), read.integer("votes", 60, 1), read.number("think", 1.0, 0, 60)
    if read.errors:
        raise ConfigError(read.errors)
    out: dict[str, list[float]] = {"vote": [], "page": [], "other": [], "a sleep of 10 ms, late": []}
    with tempfile.TemporaryDirectory() as scratch:
        study = write_study(Path(scratch), raters, votes)
        serve = [sys.executable, "-m", "distft.human_eval", "serve", f"study={study}", "port=0"]
        server = subprocess.Popen(serve, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline().split()[3].rstrip(",").rpartition(":")[2])
            paths = [link["path"] for link in read_json(study / "links.json")["raters"]]
            stop = threading.Event()
            threads = [threading.Thread(target=rate, args=(port, path, votes, think, out)) for path in paths]
            watcher = threading.Thread(target=watch, args=(stop, out["a sleep of 10 ms, late"]))
            for thread in (watcher, *threads):
                thread.start()
            for thread in threads:
                thread.join()
            stop.set()
            watcher.join()
        finally:
            server.terminate()
            server.wait()
    if len(out["vote"]) != raters * votes:
        raise RuntimeError(f"{len(out['vote'])} of {raters * votes} votes were acknowledged")
    print(f"{raters} raters, {votes} votes each, thinking {think:g} s; code {code()}\n")
    rows = []
    for name in ("vote", "page", "a sleep of 10 ms, late"):
        middle, high, largest = (float(np.quantile(out[name], q)) * 1000 for q in (0.5, 0.95, 1))
        rows.append([name, f"{len(out[name]):,}", f"{middle:.1f}", f"{high:.1f}", f"{largest:.1f}"])
    print(table(["round trip, ms", "number", "median", "95th percentile", "largest"], rows), end="")
    return 0


if __name__ == "__main__":
    command(main, help=usage("votes", KEYS, CLAIM).replace("distft.votes", "benchmarks.votes"))
