"""Speed and memory of the data stage: `python -m benchmarks.data_stage.speed [rows=20000] [repeats=3] [out=FILE.md]`.

Chat rows of the demo's dialogues are prepared with the demo model's tokenizer and chat template, by distft and by
`datasets.map` (batched, apply_chat_template and tokenizer, no mask of trained tokens), each with one and two processes,
in turn, each run in a fresh process and without a cache. Ratios are of one round, so that load of other programs
touches both sides; the median over the rounds is reported. Peak memory is the sum over the process and its children.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import psutil

from benchmarks.rows import demo_folder, read_pairs
from distft.config import Config, ConfigError

JOBS = tuple((who, count) for who in ("distft", "datasets") for count in (1, 2))
TURNS = (1, 4)  # pairs of a conversation


def main(arguments: list[str]) -> int:
    """Measures all jobs and prints a table; `job=...` runs one of them in this process."""
    given = dict(argument.split("=", 1) for argument in arguments)
    if "job" in given:
        who, _, count = given["job"].partition(":")
        seconds = {"distft": run_distft, "datasets": run_datasets}[who](
            Path(given["file"]), Path(given["model"]), int(count), Path(given["cache"])
        )
        print(json.dumps({"seconds": seconds}))
        return 0
    if unknown := set(given) - {"rows", "repeats", "out", "only"}:
        raise ConfigError([f"{', '.join(sorted(unknown))}: is not a key. Allowed: rows, repeats, out, only"])
    rows, repeats = int(given.get("rows", 20_000)), int(given.get("repeats", 3))
    jobs = [job for job in JOBS if given.get("only") in (None, f"{job[0]}:{job[1]}")]
    demo = demo_folder()
    model = next(path for path in demo.iterdir() if (path / "tokenizer.json").is_file())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "chat.jsonl"
        write_chats(read_pairs(demo / "chatterbot.jsonl"), rows, file)
        rounds = [{job: measured(job, file, model) for job in jobs} for _ in range(repeats)]
        text = table(rounds, rows, file.stat().st_size)
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


def measured(job: tuple[str, int], file: Path, model: Path) -> tuple[float, float]:
    """Returns seconds and peak memory in MiB of one job in a process of its own."""
    with tempfile.TemporaryDirectory(dir=file.parent) as cache:
        command = [sys.executable, "-m", "benchmarks.data_stage.speed", f"job={job[0]}:{job[1]}", f"file={file}"]
        process = subprocess.Popen([*command, f"model={model}", f"cache={cache}"], stdout=subprocess.PIPE, text=True)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, sum(memory_of(process.pid)))
            time.sleep(0.1)
        assert process.stdout
        return json.loads(process.stdout.read().splitlines()[-1])["seconds"], peak / 2**20


def memory_of(pid: int) -> Iterator[int]:
    """Yields the resident memory of a process and its children, memory of files that it maps not counted."""
    try:
        parent = psutil.Process(pid)
        for each in (parent, *parent.children(recursive=True)):
            found = each.memory_info()
            yield found.rss - found.shared
    except psutil.NoSuchProcess:
        return


def run_distft(file: Path, model: Path, num_proc: int, cache: Path) -> float:
    from distft.data.stage import prepare_data

    data = {"train": str(file), "eval": None, "num_proc": num_proc, "max_length": 2048}
    values = {"cache_dir": str(cache), "data": data, "model": {"path": str(model)}}
    started = time.monotonic()
    prepare_data(Config.of(values))
    return time.monotonic() - started


def run_datasets(file: Path, model: Path, num_proc: int, cache: Path) -> float:
    import datasets
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    started = time.monotonic()
    tokenizer = AutoTokenizer.from_pretrained(str(model))
    rows = datasets.Dataset.from_json(str(file), cache_dir=str(cache))

    def tokenize(batch: dict[str, list]) -> dict[str, list]:
        texts = [tokenizer.apply_chat_template(messages, tokenize=False) for messages in batch["messages"]]
        return {"input_ids": tokenizer(texts, add_special_tokens=False)["input_ids"]}

    options = {"batched": True, "remove_columns": ["messages"], "num_proc": num_proc if num_proc > 1 else None}
    rows.map(tokenize, **options)  # pyright: ignore[reportAttributeAccessIssue]  # it is a Dataset
    return time.monotonic() - started


def table(rounds: list[dict[tuple[str, int], tuple[float, float]]], rows: int, size: int) -> str:
    """Returns a Markdown table of the medians, and of the ratios within a round."""
    lines = [
        f"{rows:,} chat rows, {size / 2**20:.1f} MiB of JSON Lines, median of {len(rounds)} rounds",
        "",
        "| job | processes | rows/s | peak memory, MiB |",
        "|---|---|---|---|",
    ]
    for job in rounds[0]:
        seconds, peak = (median(each[job][i] for each in rounds) for i in (0, 1))
        lines.append(f"| {job[0]} | {job[1]} | {rows / seconds:,.0f} | {peak:,.0f} |")
    for name, over, under in (
        ("distft, two processes over one", ("distft", 1), ("distft", 2)),
        ("distft over datasets.map, one process", ("datasets", 1), ("distft", 1)),
        ("distft over datasets.map, two processes", ("datasets", 2), ("distft", 2)),
    ):
        if over in rounds[0] and under in rounds[0]:
            ratios = sorted(each[over][0] / each[under][0] for each in rounds)
            lines.append(f"\n{name}: {median(ratios):.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    from distft.config import command

    command(main)
