"""A checkpoint, base model or exported adapter in an engine: what the ranks of generation and evaluation jobs call."""

from dataclasses import replace
from pathlib import Path

from distft.config import Config, read_config
from distft.data.shards import Rows
from distft.evaluate.item_sums import item_sums, write_sums
from distft.evaluate.job import ABOUT, Work, sums_file
from distft.generate.job import read_job
from distft.generate.ranks import answer_share, load_adapters
from distft.run import Plan, RunFolder, write_json
from distft.runtime.device import compute_dtype
from distft.runtime.process_group import World
from distft.strategies.engine import Engine
from distft.train.state import load
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
    rows = Rows(work.rows_dir, "eval") if work.rows_dir else None
    limits = (work.micro_rows, work.micro_tokens)
    if rows is not None:
        plan = replace(plan, micro_batch_size=limits[0], micro_batch_tokens=limits[1])
        config = config.changed({"model.attention": choose_attention(config, plan, world, rows).in_force})
    engine = load_model(config, plan, run.checkpoints, world, Path(job["adapters"]) if job["adapters"] else None)
    if rows is not None:
        write_sums(item_sums(engine, rows, limits, world), sums_file(run, world.rank))
    if job["prompts"]:
        answer_share(engine, run, job, plan.tokenizer_dir, world)
    if world.is_first:
        write_json(run.path / ABOUT, {"dtype": str(compute_dtype(config.train.precision, world.device)).split(".")[1]})
        run.write_status(state="completed", step=0)


def load_model(config: Config, plan: Plan, checkpoints: Path, world: World, adapters: Path | None = None) -> Engine:
    """Returns the engine with the weights that checkpoint.resume names; `never`: those of the base model.

    checkpoints: of the job, usually none. adapters: folder of an exported adapter.
    """
    engine, skeleton = make_engine(config, plan, world), make_skeleton(config, plan)
    load(engine, skeleton, checkpoints, config.checkpoint.resume, config.seed, plan.model_dir, world)
    if adapters:
        load_adapters(engine, adapters, world)
    return engine
