"""A small LoRA run on a base model in a folder, and generation jobs that this process answers itself."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distft import inference, worker
from distft.config import compose
from distft.data.tokenize import byte_tokenizer
from distft.generate.__main__ import find_prompts, write_answers
from distft.generate.job import freeze
from distft.generate.settings import parse
from distft.generate.source import find_source
from distft.launch import stages
from distft.run import RunFolder
from tests.support.alone import alone
from tests.support.reference import dense
from tests.support.rows import write_sums
from tests.support.warm import warm_children

MODEL = "llama3_8b"


def make_base(folder: Path) -> Path:
    """Writes a tiny random model with the byte tokenizer as a Hugging Face folder."""
    model = dense(MODEL, 0)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def make_run(folder: Path, *more: str, name: str = "run") -> RunFolder:
    """Returns a finished run of three steps in this process; its base model is in FOLDER/base."""
    if not (folder / "base").is_dir():
        make_base(folder / "base")
    write_sums(folder)
    overrides = [
        f"name={name}",
        f"runs_dir={folder}/runs",
        f"cache_dir={folder}/cache",
        f"model.path={folder}/base",
        f"data.train={folder}/rows.jsonl",
        "data.eval=0.2",
        "train.max_steps=3",
        "train.global_batch_size=4",
        "train.precision=fp32",
        "optimizer.lr=0.05",
        "eval=none",
        "checkpoint.every_steps=2",
        *more,
    ]
    run, config = stages.with_name(compose(overrides))
    with warm_children():
        plan = stages.prepare_and_plan(run, config, overrides)
    stages.freeze(run, config, plan, overrides)
    with alone() as world:
        worker.train(run, run.read_status()["attempt"], world)
    return run


def answers(folder: Path, run: Path, prompts: str, at: str | None = None, **given: str) -> list[dict[str, Any]]:
    """Returns the lines that `distft generate` writes; this process answers them. folder: a new one for the job."""
    settings, errors = parse(given)
    assert not errors
    source = find_source(str(run), at, {"launcher.processes_per_node": "1", **given})
    requests = find_prompts(source, prompts)
    job = freeze(folder, source, [request.token_ids for request in requests], settings)
    with alone() as world:
        inference.generate(job, 1, world)
    write_answers(folder / "out.jsonl", source, requests, settings, job)
    return read_lines(folder / "out.jsonl")


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def write_lines(file: Path, lines: Sequence[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file
