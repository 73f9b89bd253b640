"""One attempt of a run on one process: from the frozen run folder to a trained model, in straight lines.

It reads config.yaml and plan.json, opens no socket but the rendezvous, and shares only the run folder with other
programs. Code below this file reads no config: constructors get plain values.
"""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distft.attempt import Attempt, make_evaluator, make_saver, pass_settings
from distft.checkpoint.choose import skip_rows
from distft.checkpoint.load import Checkpoint
from distft.checkpoint.rehearsal import rehearse
from distft.checkpoint.save import Snapshot
from distft.config import Config, read_config
from distft.config.targets import built
from distft.data.order import Base, Order, order_version, step_borders
from distft.data.shards import Rows
from distft.goodput import note
from distft.losses.cross_entropy import CrossEntropy
from distft.model_check.live import check_live, is_known, note_known
from distft.model_check.verdict import agreement_file, weights_version
from distft.models.attention.choose import Attention, Documents, Machine, Traits, effective_attention, enabled_sdpa
from distft.models.build import architecture_of, blocks, compile_blocks, fused_layers, recompute, skeleton, use_kernels
from distft.models.flops import Flops
from distft.models.regularization import (
    add_noise,
    check_dropout,
    effective_dropout,
    effective_noise,
    set_dropout,
)
from distft.models.staging import stage
from distft.optim.groups import check_effective, decay_groups
from distft.run import Plan, RunFolder, write_json
from distft.runtime import heartbeat
from distft.runtime.determinism import effective_switches
from distft.runtime.device import compute_dtype, exact_products, free_memory
from distft.runtime.errors import NonFinite
from distft.runtime.process_group import Environments, World, collective_seconds, compare, from_first, share_timeout
from distft.runtime.stop import listen, requested
from distft.strategies.engine import Engine, Objective
from distft.tasks import load_task
from distft.train.early_stopping import When
from distft.train.ema import Ema, in_force, settle
from distft.train.feed import Feed, make_cut, padding_multiple
from distft.train.first_pass import lacks_reference, lacks_teacher, make_reference, make_teacher, open_rows
from distft.train.health import Monitor, NonFinitePolicy, Stragglers
from distft.train.loop import End, Loop, RunLog, Settings
from distft.train.state import (
    check_replicas,
    load,
    save_probe,
    states_per_weight,
    steps_done,
)
from distft.train.timing import Mfu, Profile, peak_of


@dataclass(frozen=True)
class Lasting:
    """Parts of an attempt that outlast a rewind to a checkpoint."""

    policy: NonFinitePolicy
    stragglers: Stragglers
    snapshot: Snapshot  # the host buffer of saves in the background
    mfu: Mfu


def train(run: RunFolder, number: int, world: World, run_loop: Callable[[Loop], End] = Loop.run) -> None:
    """Trains the run in folder `run` from its latest checkpoint, or from the base model, to its end.

    number: of the attempt. run_loop: for callers that wrap parts of the loop, such as `distft.verify_resume`.
    """
    planned = run.read_plan().world
    if world.size != planned:
        raise RuntimeError(f"the launcher started {world.size} processes, the plan is for {planned}")
    nodes = compare(world)
    attempt, attention = begin(run, number, world)
    model = make_skeleton(attempt.config, attempt.plan)
    flops = Flops.of(model)
    read_teacher(attempt)
    engine = make_engine(attempt.config, attempt.plan, world)
    start_step = steps_done(resume(attempt, engine, model), attempt.plan)
    feed = make_feed(attempt.config, attempt.plan, flops, world)
    check_replicas(engine)
    rehearse_saves(attempt, engine)
    lasting = make_lasting(attempt, nodes)
    write_effective(attempt, engine, attention, nodes, make_settings(attempt, feed, start_step, lasting.mfu))
    if start_step == 0:
        compare_with_reference(attempt, engine, feed, model.config.get_text_config().vocab_size)
    while True:
        loop = make_loop(attempt, engine, feed, flops, start_step, lasting)
        end = run_loop(loop)
        if end.state != "rewound":
            break
        loop.saver.commit()
        attempt = replace(attempt, plan=rewind(attempt, feed, end.step))
        feed = make_feed(attempt.config, attempt.plan, flops, world)
        start_step = steps_done(resume(attempt, engine, model), attempt.plan)
    finish(attempt, loop, end, model.config)


def begin(run: RunFolder, number: int, world: World) -> tuple[Attempt, Attention]:
    """Reads the frozen config and the plan, copies files to this node where requested, and resolves the attention."""
    config, plan = read_config(run), run.read_plan()
    plan = stage(plan, config.launcher.stage, config.launcher.stage_dir, world)
    attention = choose_attention(config, plan, world)
    return Attempt(run, number, config.changed({"model.attention": attention.in_force}), plan, world), attention


def choose_attention(config: Config, plan: Plan, world: World, rows: Rows | None = None) -> Attention:
    """Returns the attention kernel for model.attention on this machine, with the reason. rows: None: those to train."""
    rows = rows or Rows(plan.rows_dir, "train", config.data.shards)
    return effective_attention(
        config.model.attention,
        Machine.of(world.device, compute_dtype(config.train.precision, world.device)),
        Documents.of(rows.lengths, plan.micro_batch_size, plan.micro_batch_tokens),
        Traits.of(model_config(config, plan), load_task(config.model.task)),
        compiled=config.train.compile,
    )


def resume(attempt: Attempt, engine: Engine, model: Any) -> Checkpoint | None:
    """Fills the engine from the checkpoint to resume, else from the base model; returns that checkpoint.

    Before, the frozen base reads the rows if the loss needs that and no run has done it yet.
    """
    config, plan, folder, world = attempt.config, attempt.plan, attempt.run.checkpoints, attempt.world
    settings = pass_settings(config, world)
    if lacks_reference(settings, plan, world):
        load(engine, model, folder, "never", config.seed, plan.model_dir, world)
        make_reference(engine, settings, plan, Flops.of(model), world)
    done = load(engine, model, folder, config.checkpoint.resume, config.seed, plan.model_dir, world)
    settle(engine, done, is_kept=config.train.ema_decay is not None)
    return done


def read_teacher(attempt: Attempt) -> None:
    """Stores the teacher's distributions at the targets of all rows, where the loss has a teacher and they are missing.

    The teacher has an engine of the run's strategy, which leaves memory before the student's is built.
    """
    config, plan, world = attempt.config, attempt.plan, attempt.world
    if not lacks_teacher(pass_settings(config, world), plan, world):
        return
    plan = replace(plan, model_dir=plan.teacher_dir, model_hash=plan.teacher_hash, adapters=None)
    others: dict[str, object] = {"model.tiny": False, "model.dropout": None, "model.attention": "auto"}
    others |= {"tuning": {"_target_": "distft.models.adapters.Full"}, "train.neftune_alpha": None}
    config = config.changed(others | {"train.compile": False, "train.activation_checkpointing": "none"})
    config = config.changed({"model.attention": choose_attention(config, plan, world).in_force})
    engine, skeleton = make_engine(config, plan, world), make_skeleton(config, plan)
    load(engine, skeleton, attempt.run.checkpoints, "never", config.seed, plan.model_dir, world)
    make_teacher(engine, pass_settings(config, world), plan, Flops.of(skeleton), world)
    del engine
    free_memory(world.device)


def rehearse_saves(attempt: Attempt, engine: Engine) -> None:
    """Checks before the first step that the disk has room for the checkpoints that the run keeps."""
    config, plan = attempt.config, attempt.plan
    evaluates = plan.eval_rows > 0 and bool(config.eval.every_steps)
    keep = config.checkpoint.keep
    rehearse(engine, attempt.run.checkpoints, states_per_weight(plan), keep, attempt.world, best=evaluates)


def make_lasting(attempt: Attempt, nodes: Environments) -> Lasting:
    """Returns the parts that outlast a rewind. nodes: the environments of all ranks."""
    config, device = attempt.config, attempt.world.device
    peak = peak_of(device, compute_dtype(config.train.precision, device))
    policy = NonFinitePolicy(config.train.on_non_finite, config.train.max_non_finite)
    return Lasting(
        policy, Stragglers([each["host"] for each in nodes["ranks"]]), Snapshot(device), Mfu(peak, attempt.world.size)
    )


def write_effective(
    attempt: Attempt, engine: Engine, attention: Attention, nodes: Environments, settings: Settings
) -> None:
    """Writes effective.json, the settings read back from live objects, and nodes.json, on rank 0."""
    effective = {
        "engine": engine.effective(),
        "optimizer": check_effective(engine.optimizer, attempt.config.optimizer.plain()),
        "determinism": effective_switches(),
        "products": exact_products(),
        "attention": asdict(attention) | {"sdpa": enabled_sdpa()},
        "fused_layers": fused_layers(engine.objective),
        "peak": settings.mfu and asdict(settings.mfu.peak),
        "max_grad_norm": settings.max_norm,
        "dropout": effective_dropout(engine.objective.model),
        "neftune_alpha": effective_noise(engine.objective.model),
        "weights_evaluated": "ema" if attempt.config.evaluates_ema else "trained",
    }
    if attempt.world.is_first:
        write_json(attempt.run.path / "effective.json", effective)
        write_json(attempt.run.path / "nodes.json", nodes)


def finish(attempt: Attempt, loop: Loop, end: End, architecture: Any) -> None:
    """Commits the last checkpoint, saves its logits for the export check, and writes how the run ended."""
    run, world = attempt.run, attempt.world
    heartbeat.enter("end")
    if world.is_first:
        note(run, "trained", attempt.number, step=end.step)
    loop.saver.close(end.step)
    if world.is_first:
        note(run, "saved", attempt.number)
    if end.state != "preempted":
        with loop.evaluator.weights():
            save_probe(loop.engine, run.checkpoints, end.step, architecture, loop.feed, world)
    if world.is_first:
        best = loop.saver.best
        run.write_status(state=end.state, step=end.step, best=best and asdict(best))


def make_feed(config: Config, plan: Plan, flops: Flops, world: World) -> Feed:
    """Opens the prepared rows and cuts them into steps; RuntimeError when they give another number than planned."""
    rows = open_rows(pass_settings(config, world), plan, "train", world)
    order = Order(len(rows), config.seed, order_version(plan.reads))
    borders = make_borders(config, plan, order, rows)
    cut = make_cut(rows, plan.micro_batch_size, plan.micro_batch_tokens, flops)
    multiple_of = padding_multiple(plan.micro_batch_tokens, config.train.compile, world.device)
    feed = Feed(rows, order, borders, cut, world, plan.base_step, multiple_of)
    if feed.steps != plan.steps:
        raise RuntimeError(f"the data gives {feed.steps} steps, the plan says {plan.steps}")
    return feed


def make_borders(config: Config, plan: Plan, order: Order, rows: Rows) -> np.ndarray:
    """Returns the borders of the steps in the order of the rows, from the plan's base step on."""
    return step_borders(
        order,
        rows.lengths,
        epochs=config.train.epochs,
        max_steps=config.train.max_steps,
        batch_rows=plan.reads["batch_rows"],
        batch_tokens=plan.reads["batch_tokens"],
        base=Base(plan.base_step, plan.base_row),
    )


def rewind(attempt: Attempt, feed: Feed, step: int) -> Plan:
    """Returns the plan that continues from the newest checkpoint with the rows after `step`; NonFinite on every
    process when there is no checkpoint."""
    run, config, plan, world = attempt.run, attempt.config, attempt.plan, attempt.world
    row = feed.position(step)
    found = skip_rows(run.checkpoints, config.checkpoint.resume, step, row) if world.is_first else None
    done = from_first(str(found["step"]) if found else "", world)
    if not done:
        raise NonFinite(f"loss or gradient of step {step} is not finite, and there is no checkpoint to go back to")
    plan = replace(plan, base_step=int(done), base_row=row)
    plan = replace(plan, steps=int(done) + len(make_borders(config, plan, feed.order, feed.rows)) - 1)
    if world.is_first:
        steps = {"base_step": plan.base_step, "base_row": plan.base_row, "steps": plan.steps}
        run.write_plan(replace(run.read_plan(), **steps))
    return plan


def make_engine(config: Config, plan: Plan, world: World) -> Engine:
    """Builds model, loss and optimizer on meta and lets the strategy lay them out."""
    exact_products()
    strategy, make_optimizer = built(config.strategy), built(config.optimizer)
    precision = compute_dtype(config.train.precision, world.device)
    engine = strategy.setup(
        lambda: make_objective(config, plan, world.device),
        lambda parameters: make_optimizer(decay_groups(parameters)),
        world,
        precision,
    )
    hang = (config.launcher.hang_seconds, config.launcher.hang_seconds_outside)
    share_timeout(collective_seconds(*hang))  # also for the groups that the strategy made
    return engine


def make_objective(config: Config, plan: Plan, device: torch.device) -> Objective:
    """Builds model and loss on meta, as they are trained on `device`."""
    loss, tune = built(config.loss), built(config.tuning)
    model = tune(make_skeleton(config, plan))
    check_dropout(model, config.model.dropout)
    if config.train.neftune_alpha:
        add_noise(model, config.train.neftune_alpha)
    use_kernels(model, config.model.kernels)
    repeated = list(blocks(model).values())
    recompute(model, config.train.activation_checkpointing)
    if config.train.compile:
        compile_blocks(model, repeated, device)
        if isinstance(loss, CrossEntropy):
            loss.compile_chunks()
    return Objective(model, loss, repeated)


def make_skeleton(config: Config, plan: Plan) -> Any:
    """Builds the model without weights, from its folder or, for a random instance, from the config."""
    return skeleton(model_config(config, plan), config.model.attention, load_task(config.model.task))


def model_config(config: Config, plan: Plan) -> Any:
    """Returns transformers' config of the model, with the labels of the run's rows and its dropout."""
    found = architecture_of(plan, config.model.facts)
    set_dropout(found, config.model.dropout)
    return found


def make_loop(attempt: Attempt, engine: Engine, feed: Feed, flops: Flops, start_step: int, lasting: Lasting) -> Loop:
    """Returns the loop from `start_step` on; rows of metrics.jsonl after it are dropped."""
    run, config, world = attempt.run, attempt.config, attempt.world
    evaluator = make_evaluator(attempt, engine, flops, feed.steps, start_step)
    saver = make_saver(attempt, engine, feed.position, start_step, lasting.snapshot)
    if config.export.enabled and config.export.at == "best":
        facts = model_config(config, attempt.plan)
        saver.after_best = lambda step: probe_best(engine, step, facts, feed, attempt)
    log = RunLog(run, attempt.number, saver, start_step) if world.is_first else lambda row: None
    signalled = listen()
    check_every = config.train.check_replicas_every
    monitor = Monitor(
        run, attempt.plan, feed, config.seed, engine, lasting.policy, log, check_every, lasting.stragglers
    )
    monitor.warnings.recall(row for row in run.read_metrics("train") if row["step"] <= start_step)
    return Loop(
        engine=engine,
        feed=feed,
        schedule=built(config.schedule)(total_steps=feed.steps),
        settings=make_settings(attempt, feed, start_step, lasting.mfu),
        saver=saver,
        monitor=monitor,
        evaluator=evaluator,
        log=log,
        stop_requested=lambda: signalled() or (world.is_first and requested(run, attempt.number)),
        world=world,
        profile=Profile(run.profile, start_step, world).step if config.train.profile else nullcontext,
        ema=Ema(engine, config.train.ema_decay) if config.train.ema_decay else None,
    )


def probe_best(engine: Engine, step: int, architecture: Any, feed: Feed, attempt: Attempt) -> None:
    """Saves the logits of the weights that an export of the checkpoint of `step` writes."""
    with in_force(engine, attempt.config.evaluates_ema):
        save_probe(engine, attempt.run.checkpoints, step, architecture, feed, attempt.world)


def make_settings(attempt: Attempt, feed: Feed, start_step: int, mfu: Mfu) -> Settings:
    """Returns the numbers of the loop."""
    config = attempt.config
    return Settings(
        start_step=start_step,
        max_norm=config.train.max_grad_norm,
        seed=config.seed,
        save=When(config.checkpoint.every_steps, feed.steps),
        save_best=config.checkpoint.save_best,
        mfu=mfu,
        flops_per_forward=3.0 if attempt.plan.adapters is None else 2.0,
        metrics=attempt.task.metrics,
    )


def compare_with_reference(attempt: Attempt, engine: Engine, feed: Feed, vocabulary: int) -> None:
    """Compares the live model with its own class, once per model, code, strategy and precision; Disagreement where the
    loss or the borders of documents differ."""
    config, plan, world = attempt.config, attempt.plan, attempt.world
    sections = {"strategy": config.strategy, "loss": config.loss, "tuning": config.tuning}
    settings: dict[str, object] = {name: part.plain() for name, part in sections.items()}
    settings |= {"task": config.model.task, "attention": config.model.attention, "kernels": config.model.kernels}
    precision = compute_dtype(config.train.precision, world.device)
    settings |= {"precision": str(precision), "device": world.device.type, "world": world.size}
    model = weights_version(Path(plan.model_dir)) if plan.model_dir else json.dumps(config.model.facts)
    file = agreement_file(model, settings, config.cache_dir)
    if not is_known(file, world):
        check_live(engine, feed.rows, feed.rows_of(1), vocabulary, precision, world)
        note_known(file, settings, world)
