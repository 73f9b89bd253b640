"""A checkpoint, base model or exported adapter in an engine that answers prompts: what the ranks of a job call."""

from pathlib import Path

from distft.config import Config, read_config
from distft.generate.job import read_job
from distft.generate.ranks import answer_share, load_adapters
from distft.run import Plan, RunFolder
from distft.runtime.process_group import World
from distft.strategies.engine import Engine
from distft.train.ema import swap
from distft.train.state import load
from distft.worker import make_engine, make_skeleton


def generate(run: RunFolder, number: int, world: World) -> None:
    """Answers the prompts of a job of `distft generate`, in the folder `run`."""
    config, plan = read_config(run), run.read_plan()
    job = read_job(run)
    adapters = Path(job["adapters"]) if job["adapters"] else None
    answer_share(load_model(config, plan, run.checkpoints, world, adapters), run, job, plan.tokenizer_dir, world)


def load_model(config: Config, plan: Plan, checkpoints: Path, world: World, adapters: Path | None = None) -> Engine:
    """Returns the engine with the weights that checkpoint.resume names; `never`: those of the base model.

    checkpoints: of the job, usually none. adapters: folder of an exported adapter.
    """
    engine, skeleton = make_engine(config, plan, world), make_skeleton(config, plan)
    load(engine, skeleton, checkpoints, config.checkpoint.resume, config.seed, plan.model_dir, world)
    if config.evaluates_ema:
        swap(engine)
    if adapters:
        load_adapters(engine, adapters, world)
    return engine
