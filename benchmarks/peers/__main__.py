"""The same real rows and weights trained by distft and its peers, alternating, and the ratios between them.

    python -m benchmarks.peers [KEY=VALUE ...]

One round after the other, each with every peer on the same rows: real tokens a second after a step that warms up,
padding, peak memory, losses, and the fp32 matrix product of the machine between any two runs. The same command goes on
where it was stopped, with the next round.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measurement import code, digest
from benchmarks.peers.data import Data, make_data
from benchmarks.peers.flops import product_gflops
from benchmarks.peers.results import LOSS_TOLERANCE, loss_gaps, page, ratios
from benchmarks.peers.rounds import Run, measure_round, read_round, write_round
from benchmarks.peers.runs import Measured, as_json, run_distft, run_peer
from benchmarks.peers.settings import KEYS, PEERS, TRAINING, Asked, read_arguments
from benchmarks.peers.venv import python_of, versions
from benchmarks.rows import demo_folder, read_pairs
from distft.config import command
from distft.run import write_json
from distft.runtime.environment import describe

INTERRUPTED = 130
HELP = f"{__doc__}\nkeys:\n" + "\n".join(f"  {key + '=':<9}{text}" for key, text in KEYS.items())


def runs_of(asked: Asked, data: Data, model: Path, python: Path | None, folder: Path) -> list[tuple[str, Run]]:
    """Returns the runs of one round, by name, ready to be started."""
    runs: list[tuple[str, Run]] = []
    for name, processes in asked.runs:
        own = folder / f"{name}-{processes}"
        if python is None or PEERS[name].library == "distft":
            run = partial(run_distft, asked, data, model, processes, own)
        else:
            run = partial(run_peer, name, asked, data, model, python, processes, own)
        runs.append((f"{name} on {processes} process{'es' * (processes > 1)}", run))
    return runs


def measure(asked: Asked, model: Path, python: Path | None) -> tuple[list[list[Measured]], dict[str, Any]]:
    """Returns the runs of every round, and their description for the results."""
    pairs = read_pairs(demo_folder() / "chatterbot.jsonl")
    peer_versions = versions(asked.venv) if python else {}
    of_a_round = [
        asked.rows,
        asked.steps,
        asked.one,
        asked.two,
        asked.threads,
        asked.distft,
        str(model),
        TRAINING,
        peer_versions,
    ]
    folder = asked.folder / digest([code(), *of_a_round])
    folder.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {"code": code(), "on": describe(), "versions": peer_versions, "rows": [], "failed": {}}
    rounds = []
    for number in range(asked.rounds):
        data = make_data(pairs, asked.blocks(number), model, folder)
        about["rows"].append(data.about())
        file = folder / f"round-{number}.json"
        found = read_round(file)
        if found is None:
            print(f"round {number + 1} of {asked.rounds}", file=sys.stderr)
            runs = runs_of(asked, data, model, python, folder / f"round-{number}")
            found, failed = measure_round(runs, partial(product_gflops, asked.threads))
            write_round(file, found, failed)
            about["failed"] |= failed
        rounds.append(found)
    return rounds, about


def main(arguments: list[str]) -> int:
    """Returns 0 when every run did its work and the losses agree, else 1, results written; 130 after Ctrl-C."""
    asked = read_arguments(arguments)
    model = asked.model or demo_folder() / "smollm2-135m-instruct"
    others = any(PEERS[name].library != "distft" for name, _ in asked.runs)
    try:
        rounds, about = measure(asked, model, python_of(asked.venv) if others else None)
    except KeyboardInterrupt:
        print("stopped; the same command continues with this round", file=sys.stderr)
        return INTERRUPTED
    typed = " ".join(["python -m benchmarks.peers", *arguments])
    text = page(rounds, about, typed, about["failed"])
    results = {"command": typed, **about, "ratios": ratios(rounds), "loss_gaps": loss_gaps(rounds)}
    write_json(asked.out / "peers.json", results | {"rounds": [[as_json(run) for run in each] for each in rounds]})
    (asked.out / "peers.md").write_text(text)
    print(text)
    gaps = loss_gaps(rounds)
    return 1 if about["failed"] or any(gap > LOSS_TOLERANCE for gap in gaps.values()) else 0


if __name__ == "__main__":
    command(main, help=HELP)
