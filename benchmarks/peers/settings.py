"""The peers that are compared, and the keys of the command line."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measurement import listed
from benchmarks.rows import BLOCK, BLOCKS
from distft.config.command import keywords
from distft.config.errors import ConfigError, did_you_mean, nearest
from distft.paths import absolute

ROWS_PER_STEP = 8
MAX_LENGTH = 1024
# Of every run; all other settings keep the library's default.
TRAINING: dict[str, Any] = {"lr": 2e-5, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.0, "max_grad_norm": 1.0}


@dataclass(frozen=True)
class Peer:
    """One way to train the rows."""

    library: str  # distft, trl or transformers
    about: str
    rows_per_forward: int = 0  # of all processes together; 0: by distft's keys
    order: str = "distft"  # of the rows; by_length: another; rebalanced: distft's, each step cut by cost
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reads_in_order(self) -> bool:
        """Returns whether each step has the rows that distft's has, so that their losses are the same."""
        return self.order != "by_length"


_FAST = {"gradient_checkpointing": False}
PEERS = {
    "distft": Peer("distft", "documents packed, settings below"),
    "trl_default": Peer("trl", "8 rows a forward, gradient checkpointing on, as SFTConfig has it", ROWS_PER_STEP),
    "trl_padded": Peer("trl", "8 rows a forward, no gradient checkpointing", ROWS_PER_STEP, arguments=_FAST),
    "trl_grouped": Peer("trl", "the same, rows grouped by length", ROWS_PER_STEP, "by_length", _FAST),
    "trl_rebalanced": Peer("trl", "rows of a step cut by cost into 4 forwards", 2, "rebalanced", _FAST),
    "trl_single": Peer("trl", "1 row a forward, 8 of them accumulated", 1, arguments=_FAST),
    "transformers": Peer("transformers", "Trainer, 4 rows a forward, 2 accumulated; 8 need about 19 GiB", 4),
}

KEYS = {
    "rounds": "of all runs in turn; default 5",
    "rows": f"that a round trains on, a multiple of {BLOCK} up to {BLOCK * BLOCKS}; rounds take turns; default {BLOCK}",
    "steps": "fewer than the rows give, for a trial; the first warms up",
    "one": f"compared on 1 process, of {', '.join(PEERS)}",
    "two": "compared on 2 processes, with half the threads each; none: nobody",
    "threads": "of all processes of a run together; default: one for each core",
    "distft": "further overrides of distft's runs, e.g. [strategy=fsdp,train.micro_batch_tokens=1024]",
    "model": "folder of the model; default: the demo's SmolLM2-135M-Instruct",
    "venv": "where TRL is; made when it is missing; default ~/.cache/distft/peers/venv",
    "folder": "of the runs, and of rounds that need not be measured again; default runs/benchmarks/peers",
    "out": "folder of peers.json and peers.md; default benchmarks/results",
}


@dataclass(frozen=True)
class Asked:
    """The settings of the command line."""

    rounds: int
    rows: int
    steps: int | None
    one: list[str]
    two: list[str]
    threads: int
    distft: list[str]
    model: Path | None
    venv: Path
    folder: Path
    out: Path

    @property
    def runs(self) -> list[tuple[str, int]]:
        """Returns peer and number of processes of every run of a round."""
        return [(name, 1) for name in self.one] + [(name, 2) for name in self.two]

    def blocks(self, number: int) -> list[int]:
        """Returns which blocks of rows a round trains on; the next round takes the next ones."""
        taken = self.rows // BLOCK
        return [(number * taken + i) % BLOCKS for i in range(taken)]


def read_arguments(arguments: Sequence[str]) -> Asked:
    """Returns the requested settings; ConfigError with all errors."""
    given, errors = keywords(arguments, KEYS, required=()), list[str]()

    def number(key: str, default: int | None, rule: Callable[[int], bool], rule_text: str) -> Any:
        text = given.get(key)
        if text is None:
            return default
        if text.isdecimal() and rule(int(text)):
            return int(text)
        errors.append(f"{key}={text} is not {rule_text}. Try: {key}={default or 2}")
        return default

    def names(key: str, default: str) -> list[str]:
        found = [] if given.get(key) == "none" else listed(given.get(key, default))
        for name in found:
            if name not in PEERS:
                meant = did_you_mean(nearest(name, PEERS))
                errors.append(f"{key}={name}: unknown peer. Allowed: {', '.join(PEERS)}.{meant}")
        return found

    cores = len(os.sched_getaffinity(0))
    allowed = [BLOCK * count for count in range(1, BLOCKS + 1) if BLOCKS % count == 0]
    asked = Asked(
        rounds=number("rounds", 5, lambda n: n >= 1, "a number of at least 1"),
        rows=number("rows", BLOCK, lambda n: n in allowed, f"one of {', '.join(map(str, allowed))}"),
        steps=number("steps", None, lambda n: n >= 2, "a number of at least 2"),
        one=names("one", "distft,trl_default,trl_grouped,trl_rebalanced,transformers"),
        two=names("two", "distft,trl_rebalanced"),
        threads=number("threads", cores, lambda n: n >= 1, "a number of at least 1"),
        distft=listed(given.get("distft", "")),
        model=absolute(given["model"]) if "model" in given else None,
        venv=absolute(given.get("venv", "~/.cache/distft/peers/venv")),
        folder=absolute(given.get("folder", "runs/benchmarks/peers")),
        out=absolute(given.get("out", "benchmarks/results")),
    )
    errors += [f"threads={asked.threads} is too few for 2 processes. Try: threads=2"] * (
        asked.threads < 2 and bool(asked.two)
    )
    most = 1 + asked.rows // ROWS_PER_STEP
    errors += [f"steps={asked.steps} is more than the rows allow. Try: steps={most}"] * ((asked.steps or 0) > most)
    if errors:
        raise ConfigError(errors)
    return asked
