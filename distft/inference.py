"""A checkpoint, base model or exported adapter in an engine: what the ranks of generation and evaluation jobs call."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distft.config import Config, read_config
from distft.data.packing import MicroBatching
from distft.data.shards import Rows
from distft.data.tokenize import load_tokenizer
from distft.evaluate.benchmarks import Ranks, positions_of
from distft.evaluate.item_sums import item_sums, unit_sums, write_sums
from distft.evaluate.job import ABOUT, BENCHMARKS, Work, sums_file
from distft.generate.decode import Prompt, decode, decoding, share
from distft.generate.job import read_job
from distft.generate.likelihood import score_share
from distft.generate.ranks import answer_share, load_adapters, rules_of
from distft.generate.scored import SCORES, TEXTS, read_texts, write_scores
from distft.generate.settings import Settings, without_stop
from distft.run import Plan, RunFolder, write_json
from distft.runtime.device import compute_dtype
from distft.runtime.process_group import World
from distft.strategies.engine import Engine
from distft.train.ema import swap
from distft.train.reference import attach, base_parts, base_reader, reads_stored
from distft.train.state import load
from distft.train.stored import write_missing
from distft.worker import choose_attention, make_engine, make_skeleton


def generate(run: RunFolder, number: int, world: World) -> None:
    """Answers the prompts of a job of `distft generate`, in the folder `run`."""
    config, plan = read_config(run), run.read_plan()
    job = read_job(run)
    adapters = Path(job["adapters"]) if job["adapters"] else None
    answer_share(load_model(config, plan, run.checkpoints, world, adapters), run, job, plan.tokenizer_dir, world)


def evaluate(run: RunFolder, number: int, world: World) -> None:
    """Measures the rows of a job of `distft evaluate`, answers its prompts and runs its benchmarks, in folder `run`."""
    config, plan, work = read_config(run), run.read_plan(), Work.read(run)
    job = read_job(run)
    rows = Rows(work.rows_dir, "eval", class_weights=config.loss.class_weights) if work.rows_dir else None
    limits = (work.micro_rows, work.micro_tokens)
    if rows is not None:
        plan = replace(plan, micro_batch_size=limits[0], micro_batch_tokens=limits[1])
        config = config.changed({"model.attention": choose_attention(config, plan, world, rows).in_force})
    adapters = Path(job["adapters"]) if job["adapters"] else None
    folder = run.path / "reference"
    reads_base = rows is not None and reads_stored(config.loss, plan)
    with_base = partial(read_base, rows, folder) if rows is not None and reads_base else None
    engine = load_model(config, plan, run.checkpoints, world, adapters, with_base)
    if rows is not None and config.model.task == "causal_lm":
        write_sums(item_sums(engine, rows, limits, world), sums_file(run, world.rank))
    elif rows is not None:
        rows = attach(rows, folder) if reads_base else rows
        write_sums(unit_sums(engine, rows, limits, world), sums_file(run, world.rank))
    if work.tasks:
        run_benchmarks(engine, run, work, load_tokenizer(plan.tokenizer_dir, config.model.trust_remote_code), world)
    if job["prompts"]:
        answer_share(engine, run, job, plan.tokenizer_dir, world)
    if world.is_first:
        write_json(run.path / ABOUT, {"dtype": str(compute_dtype(config.train.precision, world.device)).split(".")[1]})
        run.write_status(state="completed", step=0)


def run_benchmarks(engine: Engine, run: RunFolder, work: Work, tokenizer: Any, world: World) -> None:
    """Runs the tasks of a job by lm-eval on rank 0, with all ranks' help; writes benchmarks.json."""
    from distft.compat.lm_eval import Backend, Request, run_tasks  # an optional package

    assert work.tasks is not None
    job = read_job(run)

    def answers(continuations: Sequence[Mapping[str, Any]]) -> dict[int, str]:
        """Returns this process's texts by number; those with the same settings are decoded together."""
        found: dict[int, str] = {}
        settings = [Settings(temperature=each["temperature"], stop=tuple(each["stop"])) for each in continuations]
        for setting in dict.fromkeys(settings):
            rules = rules_of(setting, job["ends"], {}, tokenizer)
            prompts = [
                Prompt(i, each["token_ids"], each["max_new_tokens"])
                for i, each in enumerate(continuations)
                if settings[i] == setting
            ]
            with decoding(engine, world.device) as live:
                for answer in decode(live, share(prompts, setting.batch_size, world), rules, world):
                    text = tokenizer.decode(answer.token_ids, skip_special_tokens=True)
                    found[answer.index] = without_stop(text, setting.stop)
        return found

    ranks = Ranks(engine, world, (work.micro_rows, work.micro_tokens), positions_of(engine), answers)
    if not world.is_first:
        return ranks.serve()
    asked = work.tasks
    request = Request(asked.names, asked.paths, asked.with_defaults, asked.num_fewshot, asked.limit, asked.chat)
    write_json(
        run.path / BENCHMARKS, run_tasks(request, Backend(tokenizer, ranks.max_length, ranks.score, ranks.generate))
    )
    ranks.end()


def score(run: RunFolder, number: int, world: World) -> None:
    """Scores the texts and answers the prompts of an audit's job, in the folder `run`."""
    config, plan, job = read_config(run), run.read_plan(), read_job(run)
    adapters = Path(job["adapters"]) if job["adapters"] else None
    engine = load_model(config, plan, run.checkpoints, world, adapters)
    with decoding(engine, world.device) as live:
        write_scores(
            run.path / SCORES / f"rank-{world.rank}.jsonl", score_share(live, read_texts(run.path / TEXTS), world)
        )
    answer_share(engine, run, job, plan.tokenizer_dir, world)


def read_base(rows: Rows, folder: Path, engine: Engine, world: World) -> None:
    """Writes the log-probabilities of rows under the frozen base, whose weights the engine holds."""
    micro_rows = MicroBatching(np.ones(len(rows), np.int64), 1, rows.lengths.astype(np.float64))
    write_missing(engine, base_reader(rows, micro_rows), base_parts(folder, rows), world)


def load_model(
    config: Config,
    plan: Plan,
    checkpoints: Path,
    world: World,
    adapters: Path | None = None,
    with_base: Callable[[Engine, World], None] | None = None,
) -> Engine:
    """Returns the engine with the weights that checkpoint.resume names; `never`: those of the base model.

    checkpoints: of the job, usually none. adapters: folder of an exported adapter. with_base: called before, while the
    engine holds the base model.
    """
    engine, skeleton = make_engine(config, plan, world), make_skeleton(config, plan)
    if with_base is not None:
        load(engine, skeleton, checkpoints, "never", config.seed, plan.model_dir, world)
        with_base(engine, world)
    load(engine, skeleton, checkpoints, config.checkpoint.resume, config.seed, plan.model_dir, world)
    if config.evaluates_ema:
        swap(engine)
    if adapters:
        load_adapters(engine, adapters, world)
    return engine
