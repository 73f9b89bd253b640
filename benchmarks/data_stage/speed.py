"""Speed and memory of the data stage: `python -m benchmarks.data_stage.speed [rows=20000] [repeats=3] [out=FILE.md]`.

Chat rows of the demo's dialogues are prepared with the demo model's tokenizer and chat template, by distft and by
`datasets.map` (batched, apply_chat_template and tokenizer, no mask of trained tokens), each with one and two processes,
in turn, each run in a fresh process and without a cache. Ratios are of one round, so that load of other programs
touches both sides; the median over the rounds is reported. Peak memory is the sum over the process and its children.

`clean=sft documents=20000` measures distft alone, on documents of about 1,700 characters (paragraphs of the installed
packages' READMEs in random order) that a preset of `clean` cleans, with one and two processes.

Seconds are those of the work, the libraries imported before; those of the whole process are next to them, and the
processor time of it and its children, which other programs hardly change.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.data_stage.cleaning import PIECE, pieces
from benchmarks.rows import demo_folder, read_pairs
from distft.config import ConfigError

JOBS = tuple((who, count) for who in ("distft", "datasets") for count in (1, 2))
TURNS = (1, 4)  # pairs of a conversation
KEYS = ("rows", "repeats", "out", "only", "clean", "documents")


@dataclass(frozen=True)
class Measured:
    """What one job took."""

    seconds: float  # of its work
    whole: float  # seconds of the process, with imports
    processor: float  # seconds of the process and its children
    peak: float  # MiB


def main(arguments: list[str]) -> int:
    """Measures all jobs and prints a table; `job=...` runs one of them in this process."""
    given = dict(argument.split("=", 1) for argument in arguments)
    if "job" in given:
        who, _, count = given["job"].partition(":")
        work = (Path(given["file"]), Path(given["model"]), int(count), Path(given["cache"]))
        seconds = run_datasets(*work) if who == "datasets" else run_distft(*work, given.get("clean", "none"))
        print(json.dumps({"seconds": seconds}))
        return 0
    if unknown := set(given) - {*KEYS}:
        raise ConfigError([f"{', '.join(sorted(unknown))}: is not a key. Allowed: {', '.join(KEYS)}"])
    clean, repeats = given.get("clean", "none"), int(given.get("repeats", 3))
    known = JOBS if clean == "none" else JOBS[:2]
    jobs = [job for job in known if given.get("only") in (None, f"{job[0]}:{job[1]}")]
    demo = demo_folder()
    model = next(path for path in demo.iterdir() if (path / "tokenizer.json").is_file())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        if clean == "none":
            rows = int(given.get("rows", 20_000))
            write_chats(read_pairs(demo / "chatterbot.jsonl"), rows, file)
        else:
            rows = int(given.get("documents", 20_000))
            write_documents(rows, file)
        rounds = [{job: measured(job, file, model, clean) for job in jobs} for _ in range(repeats)]
        text = table(rounds, rows, f"{'chat rows' if clean == 'none' else f'documents, clean={clean}'}", file)
    if out := given.get("out"):
        Path(out).write_text(text)
    print(text)
    return 0


def write_chats(pairs: list[dict[str, str]], rows: int, file: Path) -> None:
    """Writes conversations of some of the pairs, the same on every machine."""
    choose = random.Random(0)
    with file.open("w") as opened:
        for _ in range(rows):
            messages = []
            for pair in choose.choices(pairs, k=choose.randint(*TURNS)):
                messages.append({"role": "user", "content": pair["prompt"]})
                messages.append({"role": "assistant", "content": pair["completion"]})
            opened.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")


def write_documents(count: int, file: Path) -> None:
    """Writes prompts and answers of READMEs' paragraphs in random order, the same for the same packages."""
    choose = random.Random(0)
    paragraphs = [part for piece in pieces() for part in piece.split("\n\n") if part.strip()]
    with file.open("w") as opened:
        for _ in range(count):
            chosen: list[str] = []
            while sum(map(len, chosen)) < PIECE:
                chosen.append(choose.choice(paragraphs))
            prompt, _, answer = "\n\n".join(chosen)[: 2 * PIECE].partition("\n")
            row = {"prompt": prompt or "?", "completion": answer or "?"}
            opened.write(json.dumps(row, ensure_ascii=False) + "\n")


def measured(job: tuple[str, int], file: Path, model: Path, clean: str) -> Measured:
    """Returns what one job takes in a process of its own."""
    with tempfile.TemporaryDirectory(dir=file.parent) as cache:
        command = [sys.executable, "-m", "benchmarks.data_stage.speed", f"job={job[0]}:{job[1]}", f"file={file}"]
        command += [f"model={model}", f"cache={cache}", f"clean={clean}"]
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        peak, ended, status, usage = 0.0, 0, 0, None
        while not ended:
            peak = max(peak, sum(memory_of(process.pid)))
            time.sleep(0.1)
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        whole = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.stdout and usage
        seconds = json.loads(process.stdout.read().splitlines()[-1])["seconds"]
        return Measured(seconds, whole, usage.ru_utime + usage.ru_stime, peak / 2**20)


def memory_of(pid: int) -> Iterator[int]:
    """Yields the resident memory of a process and its children, memory of files that it maps not counted."""
    try:
        parent = psutil.Process(pid)
        for each in (parent, *parent.children(recursive=True)):
            found = each.memory_info()
            yield found.rss - found.shared
    except psutil.NoSuchProcess:
        return


def run_distft(file: Path, model: Path, num_proc: int, cache: Path, clean: str) -> float:
    import pyarrow
    from transformers import PreTrainedTokenizerFast  # noqa: F401  # before the clock starts, as in run_datasets

    from distft.config import compose
    from distft.data.stage import prepare_data

    data = {"train": file, "eval": "null", "num_proc": num_proc, "max_length": 2048}
    keys = [f"data.{key}={value}" for key, value in data.items()]
    config = compose([*keys, f"cache_dir={cache}", f"model.path={model}", f"clean={clean}"])
    pyarrow.array([0])  # imports pandas, which datasets has imported too
    started = time.monotonic()
    prepare_data(config)
    return time.monotonic() - started


def run_datasets(file: Path, model: Path, num_proc: int, cache: Path) -> float:
    import datasets
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    started = time.monotonic()
    tokenizer: Any = AutoTokenizer.from_pretrained(str(model))
    rows = datasets.Dataset.from_json(str(file), cache_dir=str(cache))

    def tokenize(batch: dict[str, list]) -> dict[str, list]:
        texts = [tokenizer.apply_chat_template(messages, tokenize=False) for messages in batch["messages"]]
        return {"input_ids": tokenizer(texts, add_special_tokens=False)["input_ids"]}

    options = {"batched": True, "remove_columns": ["messages"], "num_proc": num_proc if num_proc > 1 else None}
    rows.map(tokenize, **options)  # pyright: ignore[reportAttributeAccessIssue]  # it is a Dataset
    return time.monotonic() - started


def table(rounds: list[dict[tuple[str, int], Measured]], rows: int, what: str, file: Path) -> str:
    """Returns a Markdown table of the medians, and of the ratios within a round."""
    lines = [
        f"{rows:,} {what}, {file.stat().st_size / 2**20:.1f} MiB of JSON Lines, median of {len(rounds)} rounds",
        "",
        "| job | processes | rows/s | rows/s with imports | processor time a row, us | peak memory, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for job in rounds[0]:
        seconds, whole, processor, peak = map(median, zip(*(astuple(each[job]) for each in rounds), strict=True))
        lines.append(
            f"| {job[0]} | {job[1]} | {rows / seconds:,.0f} | {rows / whole:,.0f} | {processor / rows * 1e6:,.0f} | "
            f"{peak:,.0f} |"
        )
    for name, over, under in (
        ("distft, two processes over one", ("distft", 1), ("distft", 2)),
        ("distft over datasets.map, one process", ("datasets", 1), ("distft", 1)),
        ("distft over datasets.map, two processes", ("datasets", 2), ("distft", 2)),
    ):
        if over in rounds[0] and under in rounds[0]:
            ratios = sorted(each[over].seconds / each[under].seconds for each in rounds)
            whole = median(each[over].whole / each[under].whole for each in rounds)
            lines.append(
                f"\n{name}: {median(ratios):.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f}); "
                f"{whole:.2f} with imports"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    from distft.config import command

    command(main)
