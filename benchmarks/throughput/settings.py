"""The command line: the benchmark's own keys, and overrides of the runs that it starts.

An override with several values, train.compile=false,true, is one of several settings that are compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measurement import listed
from distft.config import ConfigError, compose
from distft.config.command import keywords
from distft.config.errors import did_you_mean, nearest
from distft.config.overrides import WrongOverride, split
from distft.paths import absolute, conf_dir
from distft.sweep.grid import Grid
from distft.sweep.request import parse, sweep_of

Variant = tuple[str, ...]  # overrides that distinguish a run from those it is compared with

SCALINGS = ("weak", "strong")
ROWS = ("unequal", "uniform")
KEYS = {
    "processes": "on each node, e.g. 1,2,4,8; default 1,2",
    "nodes": "e.g. 1,2,4,8 with launcher=slurm; default 1",
    "strategies": "words of conf/strategy; default ddp,fsdp",
    "micro": "rows per forward, or tokens with data.packing=true; default 4, or 4096",
    "scaling": "weak: as many rows for each process; strong: as many for all together; default weak,strong",
    "rows_per_process": "of a step, in weak scaling; default 16",
    "global_rows": "of a step, in strong scaling; default: rows_per_process x the most processes",
    "steps": "measured in each run; default 8",
    "warmup": "steps before them; default 2",
    "repeats": "of every run, in turn; default 3",
    "threads": "of each process; default: the cores of this machine over the most processes of a node",
    "rows": "without data.train: unequal (61 tokens in the median, mean 190) or uniform (512); default unequal",
    "folder": "of the runs, and of points that need not be measured again; default runs/benchmarks/throughput",
    "out": "folder of throughput.json, .csv, .md, .svg and .png; default benchmarks/results",
}
_OURS = {  # keys that the benchmark sets -> its own key for them
    "name": "folder",
    "runs_dir": "folder",
    "strategy": "strategies",
    "train.max_steps": "steps",
    "train.epochs": "steps",
    "train.global_batch_size": "rows_per_process",
    "train.global_batch_tokens": "rows_per_process",
    "train.micro_batch_size": "micro",
    "train.micro_batch_tokens": "micro",
    "launcher.nodes": "nodes",
    "launcher.processes_per_node": "processes",
}

_PACKING = "data.packing"


@dataclass(frozen=True)
class Asked:
    """What to measure."""

    processes: list[int]
    nodes: list[int]
    strategies: list[str]
    micro: list[int]
    scaling: list[str]
    rows_per_process: int
    global_rows: int
    steps: int
    warmup: int
    repeats: int
    threads: int | None  # None: the launcher's default
    rows: str
    folder: Path
    out: Path
    overrides: list[str]  # of every run
    variants: list[Variant]  # further differences of the runs, in order; one without overrides when nothing is compared

    def has(self, *keys: str) -> bool:
        """Returns whether the overrides set any of these keys or groups."""
        return any(_key(text) in keys for text in [*self.overrides, *self.variants[0]])

    @property
    def is_packed(self) -> bool:
        return f"{_PACKING}=true" in self.overrides


def read_arguments(arguments: Sequence[str], cores: int) -> Asked:
    """Returns the requested settings; ConfigError with all errors.

    cores: of this machine without accelerators, else 0.
    """
    mine = [text for text in arguments if is_own(text.partition("=")[0])]
    errors: list[str] = []
    overrides, variants = _compared([text for text in arguments if text not in mine], errors)
    try:
        given = keywords(mine, KEYS, required=())
    except ConfigError as error:
        given = {}
        errors += error.messages

    def numbers(key: str, default: str, least: int = 1) -> list[int]:
        text = given.get(key, default)
        parts = listed(text)
        if parts and all(part.isdecimal() and int(part) >= least for part in parts):
            return list(dict.fromkeys(map(int, parts)))
        errors.append(f"{key}={text} is not a list of whole numbers of at least {least}. Try: {key}={default}")
        return [int(part) for part in listed(default)]

    def number(key: str, default: int, least: int = 1) -> int:
        found = numbers(key, str(default), least)
        if len(found) > 1:
            errors.append(f"{key}={given[key]} is more than one number. Try: {key}={found[0]}")
        return found[0]

    def words(key: str, default: str, known: Sequence[str]) -> list[str]:
        parts = listed(given.get(key, default))
        for word in parts:
            if word not in known:
                meant = did_you_mean(nearest(word, known))
                errors.append(f"{key}={word}: unknown. Allowed: {', '.join(known)}.{meant}")
        return list(dict.fromkeys(parts))

    packed = f"{_PACKING}=true" in overrides
    processes, nodes = numbers("processes", "1,2"), numbers("nodes", "1")
    rows_per_process = number("rows_per_process", 16)
    strategies = sorted(file.stem for file in (conf_dir() / "strategy").glob("*.yaml"))
    most_threads = max(1, cores // max(processes)) if cores else None
    [rows, *others] = words("rows", "unequal", ROWS) or ["unequal"]
    asked = Asked(
        processes=processes,
        nodes=nodes,
        strategies=words("strategies", "ddp,fsdp", strategies),
        micro=numbers("micro", "4096" if packed else "4"),
        scaling=words("scaling", "weak,strong", SCALINGS),
        rows_per_process=rows_per_process,
        global_rows=number("global_rows", rows_per_process * max(processes) * max(nodes)),
        steps=number("steps", 8),
        warmup=number("warmup", 2),
        repeats=number("repeats", 3),
        threads=number("threads", most_threads or 1) if "threads" in given else most_threads,
        rows=rows,
        folder=absolute(given.get("folder", "runs/benchmarks/throughput")),
        out=absolute(given.get("out", "benchmarks/results")),
        overrides=overrides,
        variants=variants,
    )
    errors += [f"rows={other}: only one kind of rows is allowed. Try: rows={rows}" for other in others]
    errors += _of_the_runs(asked, "rows" in given)
    if errors:
        raise ConfigError(errors)
    return asked


def is_own(key: str) -> bool:
    """Returns whether a key is one of the benchmark's, allowing for typing errors."""
    if key in KEYS:
        return True
    plain = "." not in key and not (conf_dir() / key).is_dir() and key not in _OURS
    return plain and key not in ("seed", "export", "trust", "cache_dir") and nearest(key, KEYS) is not None


def _of_the_runs(asked: Asked, says_rows: bool) -> list[str]:
    """Returns the errors in the overrides of the runs that do not depend on the point."""
    errors = [
        f"{key}=: is set by the benchmark. Try: {_OURS[key]}=..."
        for key in map(_key, [*asked.overrides, *asked.variants[0]])
        if key in _OURS
    ]
    if says_rows and asked.has("data.train"):
        errors.append(f"rows={asked.rows}: data.train sets the rows. Try: one of the two")
    if asked.has("data") and not asked.has("data.train"):
        errors.append("data=: needs data.train here. Try: data.train=FILE")
    probe = [] if asked.has("data.train") else ["data.train=not/read"]
    for variant in asked.variants:
        try:
            compose([*(text for text in [*asked.overrides, *variant] if _key(text) not in _OURS), *probe])
        except ConfigError as error:
            errors += [each for each in error.messages if "batch" not in each]  # the points set the size of a step
    return list(dict.fromkeys(errors))


def _compared(overrides: Sequence[str], errors: list[str]) -> tuple[list[str], list[Variant]]:
    """Returns the overrides with one value, and each combination of the others; adds impossible ones to `errors`."""
    shared, swept = [], []
    for text in overrides:
        try:
            sweep = sweep_of(split(text))
        except WrongOverride:
            sweep = None  # reported with the other errors of the runs
        if sweep is None:
            shared.append(text)
        elif _key(text) == _PACKING:
            errors.append(f"{text}: cannot be compared: micro= counts either rows or tokens. Try: one value")
        else:
            swept.append(sweep)
    try:
        return shared, Grid().points(parse(swept), {})[0] if swept else [()]
    except ConfigError as error:
        errors += error.messages
        return shared, [()]


def _key(override: str) -> str:
    """Returns the key of an override, without Hydra's prefixes."""
    return override.lstrip("+~").partition("=")[0]
