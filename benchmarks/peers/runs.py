"""One run of one peer: starts it, measures its memory, and returns the same numbers for every peer."""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.data import Data
from benchmarks.peers.flops import useful_flops
from benchmarks.peers.settings import MAX_LENGTH, PEERS, ROWS_PER_STEP, TRAINING, Asked, Peer
from benchmarks.peers.watch import run_watched
from distft.machines import num_accelerators
from distft.run import RunFolder

PROGRAM = Path(__file__).with_name("train.py")
PACKED = ["data.packing=true", "train.micro_batch_tokens=2048"]


@dataclass(frozen=True)
class Measured:
    """One run; tokens, seconds, padding and FLOPs are those of the steps after the warm-up step."""

    peer: str
    processes: int
    tokens: int  # without padding
    seconds: float
    padding: float | None  # share of the tokens in the forward; None: not reported
    flops: float  # `useful_flops`
    peaks_gib: list[float]  # highest resident size of each training process, the largest first
    losses: list[float]  # of all steps
    settings: dict[str, Any]
    product_gflops: float = 0.0  # of the fp32 matrix product, mean of just before and just after

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def peak_gib(self) -> float:
        """Of the worst process."""
        return self.peaks_gib[0]

    @property
    def mfu(self) -> float:
        """Useful FLOP/s divided by those of the matrix product."""
        return self.flops / self.seconds / (1e9 * self.product_gflops)


def run_distft(asked: Asked, data: Data, model: Path, processes: int, folder: Path) -> Measured:
    """Trains by `python -m distft.launch`, and reads the run's metrics.jsonl."""
    steps = asked.steps or data.steps
    own = [*PACKED, *asked.distft]
    overrides = [*data.overrides, f"name={folder.name}", f"runs_dir={folder.parent}", "strategy=ddp", *training()]
    overrides += ["eval=none", "export=false", "train.precision=fp32", "train.epochs=null", f"train.max_steps={steps}"]
    overrides += [f"train.global_batch_size={ROWS_PER_STEP}", f"launcher.processes_per_node={processes}", *own]
    shutil.rmtree(folder, ignore_errors=True)
    log = folder.with_suffix(".log")
    peaks = run_watched([sys.executable, "-m", "distft.launch", *overrides], log, threads(asked, processes))
    run = RunFolder(folder)
    rows = list(run.read_metrics("train"))
    shutil.rmtree(run.checkpoints, ignore_errors=True)
    lengths, targets = (each[ROWS_PER_STEP : ROWS_PER_STEP * steps] for each in (data.lengths, data.targets))
    assert sum(row["tokens"] for row in rows[1:]) == sum(lengths), (
        "distft read other rows than were handed to the peers"
    )
    return Measured(
        peer="distft",
        processes=processes,
        tokens=sum(lengths),
        seconds=sum(map(seconds_of, rows[1:])),
        padding=padding_of(rows[1:]),
        flops=total_flops(model, lengths, targets),
        peaks_gib=peaks[:processes],
        losses=[row["loss"] for row in rows],
        settings={"overrides": own},
    )


def in_steps(values: Sequence[int]) -> list[Sequence[int]]:
    """Returns the values of each step's rows."""
    return [values[start : start + ROWS_PER_STEP] for start in range(0, len(values), ROWS_PER_STEP)]


def padding_of(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Returns the share of padding: from the metrics; else 0 on a CPU, where documents are packed."""
    if all("padding" in row for row in rows):
        return sum(row["padding"] * row["tokens"] for row in rows) / sum(row["tokens"] for row in rows)
    return None if num_accelerators() else 0.0


def seconds_of(row: Mapping[str, Any]) -> float:
    """Returns the seconds of a step since the end of the previous one, as for the peers."""
    return row["seconds"] + sum((row.get("between") or {}).values())


def training() -> list[str]:
    """Returns the settings that all runs share, as overrides of distft."""
    given = {key: str(value).replace(" ", "") for key, value in TRAINING.items()}
    own = [f"train.max_grad_norm={given.pop('max_grad_norm')}", "optimizer=adamw", "schedule=constant"]
    return own + [f"optimizer.{key}={value}" for key, value in given.items()]


def run_peer(name: str, asked: Asked, data: Data, model: Path, python: Path, processes: int, folder: Path) -> Measured:
    """Trains with a program in the peers' environment, which records its steps."""
    peer = PEERS[name]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    given = folder / "settings.json"
    given.write_text(json.dumps(settings_of(peer, asked, data, model, processes), indent=2))
    command = [str(python)]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    peaks = run_watched(
        [*command, str(PROGRAM), str(given), str(folder)],
        folder.with_suffix(".log"),
        threads(asked, processes) | offline,
    )
    ranks = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(processes)]
    shutil.rmtree(folder / "trainer", ignore_errors=True)
    return measured(name, ranks, model, peaks)


def settings_of(peer: Peer, asked: Asked, data: Data, model: Path, processes: int) -> dict[str, Any]:
    """Returns the settings passed to the peers' program."""
    return TRAINING | {
        "library": peer.library,
        "model": str(model),
        "rows": str(data.tokens),
        "order": peer.order,
        "rows_per_step": ROWS_PER_STEP,
        "rows_per_forward": max(1, peer.rows_per_forward // processes),
        "steps": asked.steps or data.steps,
        "max_length": MAX_LENGTH,
        "arguments": dict(peer.arguments),
    }


def measured(name: str, ranks: Sequence[Mapping[str, Any]], model: Path, peaks: Sequence[float]) -> Measured:
    """Returns the numbers of a peer's run from the records of its ranks, without the warm-up step."""
    steps = len(ranks[0]["seconds"])
    forwards = [
        forward
        for rank in ranks
        for forward in rank["forwards"][rank["accumulation"] : rank["accumulation"] * steps]  # a loader reads ahead
    ]
    lengths = [length for forward in forwards for length in forward["lengths"]]
    targets = [count for forward in forwards for count in forward["targets"]]
    return Measured(
        peer=name,
        processes=len(ranks),
        tokens=sum(lengths),
        seconds=sum(ranks[0]["seconds"][1:]),
        padding=1 - sum(lengths) / sum(forward["padded"] for forward in forwards),
        flops=total_flops(model, lengths, targets),
        peaks_gib=list(peaks[: len(ranks)]),
        losses=ranks[0]["losses"],
        settings=dict(ranks[0]["settings"]),
    )


def total_flops(model: Path, lengths: Sequence[int], targets: Sequence[int]) -> float:
    facts = json.loads((model / "config.json").read_text())
    return sum(useful_flops(facts, *row) for row in zip(lengths, targets, strict=True))


def threads(asked: Asked, processes: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(asked.threads // processes)}


def as_json(run: Measured) -> dict[str, Any]:
    derived = {"tokens_per_second": run.tokens_per_second, "peak_gib": run.peak_gib, "mfu": run.mfu}
    return asdict(run) | derived
