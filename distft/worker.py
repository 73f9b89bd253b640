"""One process of a run: from the frozen folder to a trained model, the way of the data in straight lines.

It reads config.yaml and plan.json and nothing else, opens no socket but the rendezvous, and meets other programs
only in the run folder. Below this file no code sees a config.
"""

import json
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate

from distft.checkpoint.choose import skip_rows
from distft.checkpoint.probe import PROBE, PROMPTS, probe_prompt, take_probe, write_probe
from distft.checkpoint.rehearsal import rehearse
from distft.checkpoint.retention import being_saved
from distft.checkpoint.save import Snapshot
from distft.data.batches import Batch, make_batch, to_device
from distft.data.order import Base, Order, order_version, step_borders
from distft.data.shards import Row, Rows
from distft.evaluate.held_out import held_out
from distft.goodput import lost_of, note
from distft.losses.cross_entropy import CrossEntropy, logits
from distft.model_check.live import check_live
from distft.model_check.verdict import agreed_file, weights_version
from distft.models.attention.choose import enabled_sdpa
from distft.models.build import (
    blocks,
    compile_blocks,
    fused_layers,
    model_config,
    recompute,
    skeleton,
    use_kernels,
    with_attention,
)
from distft.models.flops import Flops
from distft.models.staging import stage
from distft.optim.groups import check_in_force, decay_groups
from distft.run import MetricsLog, Plan, RunFolder, StepReport, write_json
from distft.runtime import heartbeat
from distft.runtime.determinism import in_force
from distft.runtime.device import compute_dtype, exact_products
from distft.runtime.errors import NonFinite
from distft.runtime.process_group import World, collective_seconds, compare, from_first, share_timeout
from distft.runtime.stop import listen, requested
from distft.strategies.engine import Engine, Objective
from distft.train.early_stopping import EarlyStopping, When
from distft.train.feed import Feed, all_rows, filled_up_to, make_cut
from distft.train.health import Judge, NonFinitePolicy, Stragglers
from distft.train.loop import Hooks, Settings, train_steps
from distft.train.oom_probe import try_longest
from distft.train.state import Saving, check_replicas, load, states_per_weight, steps_done
from distft.train.timing import Peak, Profile, peak_of

Values = dict[str, Any]
PLAIN = {"_convert_": "all"}  # lists and dicts as they are: omegaconf's own are not JSON, nor what others look for


def train(run: RunFolder, attempt: int, world: World) -> None:
    """Trains the run in folder `run` from its latest checkpoint, or from the base model, to its end."""
    config, plan = run.read_config(), run.read_plan()
    if world.size != plan.world:
        raise RuntimeError(f"the launcher started {world.size} processes, the plan is for {plan.world}")
    environments = compare(world)
    plan = staged(config, plan, world)
    config, attention = with_attention(config, plan, world)
    model = make_skeleton(config, plan)
    flops = Flops.of(model)
    feed = make_feed(config, plan, flops, world)
    engine = make_engine(config, plan, world)
    start_step = steps_done(load(engine, model, config, plan, run, world), plan)
    check_replicas(engine)
    keep, evaluates = config["checkpoint"]["keep"], plan.eval_rows > 0 and bool(config["eval"]["every_steps"])
    rehearse(engine, run.checkpoints, states_per_weight(plan), keep, world, best=evaluates)
    effective = {"engine": engine.effective(), "optimizer": check_in_force(engine.optimizer, config["optimizer"])}
    effective["determinism"] = in_force()
    effective["products"] = exact_products()
    effective["attention"] = asdict(attention) | {"sdpa": enabled_sdpa()}
    effective["fused_layers"] = fused_layers(engine.objective)
    peak = peak_of(world.device, compute_dtype(config["train"]["precision"], world.device))
    effective["peak"] = asdict(peak)
    effective["max_grad_norm"] = make_settings(config, start_step, feed.steps, peak, 0.0).max_norm
    if world.is_first:
        write_json(run.path / "effective.json", effective)
        write_json(run.path / "nodes.json", environments)
    if start_step == 0:
        agree(engine, config, plan, feed, model.config.get_text_config().vocab_size, world)
    policy = NonFinitePolicy(config["train"]["on_non_finite"], config["train"]["max_non_finite"])
    slow = Stragglers([each["host"] for each in environments["ranks"]])
    snapshot = Snapshot(world.device)
    while True:
        stopping = EarlyStopping(**config["eval"]["early_stopping"])
        if world.is_first:
            stopping.recall(evals_before(run, start_step))
        saving = Saving(engine, config, plan, run, start_step, feed.position, world, snapshot)
        hooks = make_hooks(run, attempt, config, plan, engine, flops, feed, policy, slow, saving, start_step, world)
        factor = instantiate(config["schedule"], **PLAIN)(total_steps=feed.steps)
        settings = make_settings(config, start_step, feed.steps, peak, 3.0 if plan.adapters is None else 2.0)
        end, step = train_steps(engine, feed, factor, settings, stopping, hooks, world)
        if end != "rewound":
            break
        saving.commit()
        plan = go_back(run, config, plan, feed, step, world)
        feed = make_feed(config, plan, flops, world)
        start_step = steps_done(load(engine, model, config, plan, run, world), plan)
    heartbeat.enter("end")
    if world.is_first:
        note(run, "trained", attempt, step=step)
    saving.close(step)
    if world.is_first:
        note(run, "saved", attempt)
    if end != "preempted":
        probe(engine, run.checkpoints, step, model.config, feed, world)
    if world.is_first:
        run.write_status(state=end, step=step, best=saving.best and asdict(saving.best))


def evaluate(run: RunFolder, attempt: int, world: World) -> None:
    """Evaluates the checkpoint that the config of folder `run` names on the held-out rows, into metrics.json."""
    config, plan = run.read_config(), run.read_plan()
    plan = staged(config, plan, world)
    config, _ = with_attention(config, plan, world)
    engine, model = make_engine(config, plan, world), make_skeleton(config, plan)
    checkpoint = load(engine, model, config, plan, run, world)
    step = checkpoint.step if checkpoint else 0
    metrics = held_out(engine, held_out_batches(config, plan, Flops.of(model), world), world)
    if world.is_first:
        write_json(run.path / "metrics.json", {"step": step, "split": "eval", **metrics})
        run.write_status(state="completed", step=step)


def staged(config: Values, plan: Plan, world: World) -> Plan:
    """Returns the plan with the places to read from; a launcher of the user's own need not know of staging."""
    settings = config["launcher"]
    return stage(plan, settings.get("stage", "none"), settings.get("stage_dir"), world)


def make_feed(config: Values, plan: Plan, flops: Flops, world: World) -> Feed:
    """Opens the prepared rows and cuts them into steps; RuntimeError when they are not what was planned."""
    rows = Rows(plan.rows_dir, "train", config["data"]["shards"])
    order = Order(len(rows), config["seed"], order_version(plan.reads))
    borders = make_borders(config, plan, order, rows)
    cut = make_cut(rows, plan.micro_batch_size, plan.micro_batch_tokens, flops)
    filled = filled_up_to(plan.micro_batch_tokens, config["train"]["compile"], world.device)
    feed = Feed(rows, order, borders, cut, world, plan.base_step, filled)
    if feed.steps != plan.steps:
        raise RuntimeError(f"the data gives {feed.steps} steps, the plan says {plan.steps}")
    return feed


def make_borders(config: Values, plan: Plan, order: Order, rows: Rows) -> np.ndarray:
    """Returns where the steps from the plan's base on begin and end in the order of the rows."""
    return step_borders(
        order,
        rows.lengths,
        epochs=config["train"]["epochs"],
        max_steps=config["train"]["max_steps"],
        batch_rows=plan.reads["batch_rows"],
        batch_tokens=plan.reads["batch_tokens"],
        base=Base(plan.base_step, plan.base_row),
    )


def go_back(run: RunFolder, config: Values, plan: Plan, feed: Feed, step: int, world: World) -> Plan:
    """Returns the plan that goes on from the newest checkpoint, behind the rows of the steps up to `step`; NonFinite
    on every process when there is no checkpoint."""
    row = feed.position(step)
    found = skip_rows(run.checkpoints, config["checkpoint"]["resume"], step, row) if world.is_first else None
    done = from_first(str(found["step"]) if found else "", world)
    if not done:
        raise NonFinite(f"loss or gradient of step {step} is not finite, and there is no checkpoint to go back to")
    plan = replace(plan, base_step=int(done), base_row=row)
    plan = replace(plan, steps=int(done) + len(make_borders(config, plan, feed.order, feed.rows)) - 1)
    if world.is_first:
        steps = {"base_step": plan.base_step, "base_row": plan.base_row, "steps": plan.steps}
        run.write_plan(replace(run.read_plan(), **steps))
    return plan


def make_engine(config: Values, plan: Plan, world: World) -> Engine:
    """Builds model, loss and optimizer on meta and lets the strategy lay them out."""
    exact_products()
    loss, tune, make_optimizer = (instantiate(config[group], **PLAIN) for group in ("loss", "tuning", "optimizer"))

    def build() -> Objective:
        model = tune(make_skeleton(config, plan))
        use_kernels(model, config["model"].get("kernels", "none"))
        repeated = list(blocks(model).values())
        recompute(model, config["train"]["activation_checkpointing"])
        if config["train"]["compile"]:
            compile_blocks(model, repeated, world.device)
            if isinstance(loss, CrossEntropy):
                loss.compile_chunks()
        return Objective(model, loss, repeated)

    strategy = instantiate(config["strategy"], **PLAIN)
    precision = compute_dtype(config["train"]["precision"], world.device)
    engine = strategy.setup(build, lambda parameters: make_optimizer(decay_groups(parameters)), world, precision)
    share_timeout(collective_seconds(config.get("launcher", {})))  # with the groups that the strategy has made
    return engine


def make_skeleton(config: Values, plan: Plan) -> Any:
    """Builds the model without weights, from its folder or, for a random instance, from the config."""
    return skeleton(model_config(config, plan), config["model"]["attention"])


def evals_before(run: RunFolder, start_step: int) -> Iterator[float]:
    """Yields the held-out losses up to `start_step`, none of a run that begins: it will make that of step 0 again."""
    for row in run.read_metrics("eval"):
        if row["step"] <= start_step and start_step > 0:
            yield row["loss"]


def make_settings(config: Values, start_step: int, steps: int, peak: Peak, flops_per_forward: float) -> Settings:
    """Returns the loop's own numbers."""
    evaluation = config["eval"]
    return Settings(
        start_step=start_step,
        max_norm=config["train"]["max_grad_norm"],
        seed=config["seed"],
        evaluate=When(evaluation["every_steps"], steps, at_last=evaluation["at_ends"]),
        save=When(config["checkpoint"]["every_steps"], steps),
        evaluate_first=evaluation["at_ends"],
        save_best=config["checkpoint"].get("save_best", False),  # older versions had none
        peak=peak,
        flops_per_forward=flops_per_forward,
    )


def held_out_batches(config: Values, plan: Plan, flops: Flops, world: World) -> Iterator[Batch]:
    """Yields this process's share of the held-out rows."""
    rows = Rows(plan.rows_dir, "eval")
    micro_rows = config["eval"]["micro_batch_size"] or plan.micro_batch_size
    micro_tokens = None if micro_rows else plan.micro_batch_tokens
    filled = filled_up_to(micro_tokens, config["train"]["compile"], world.device)
    return all_rows(rows, make_cut(rows, micro_rows, micro_tokens, flops), world, filled)


def make_hooks(
    run: RunFolder,
    attempt: int,
    config: Values,
    plan: Plan,
    engine: Engine,
    flops: Flops,
    feed: Feed,
    policy: NonFinitePolicy,
    slow: Stragglers,
    saving: Saving,
    start_step: int,
    world: World,
) -> Hooks:
    """Returns what the loop calls at step borders; only rank 0 writes to the run folder's own files."""
    files = (MetricsLog(run.metrics, start_step), StepReport(run)) if world.is_first else None
    if files is not None:
        note(run, "training", attempt, step=start_step, world=world.size, lost=lost_of(files[0].dropped))

    def log(row: Values) -> None:
        if files is not None:
            metrics, report = files
            metrics.write(row)
            report.others["best"] = saving.best and asdict(saving.best)
            if row["split"] == "warning":
                report.others["warning"] = row["text"]
            report.tell(row["step"])

    def evaluate() -> Values:
        return held_out(engine, held_out_batches(config, plan, flops, world), world)

    def save(step: int, held_out_loss: float | None, is_best: bool) -> None:
        saving.save(step, held_out_loss, is_best)
        if is_best and exports_best:
            probe(engine, run.checkpoints, step, model_config(config, plan), feed, world)

    export = config.get("export", {})
    exports_best = export.get("enabled", True) and export.get("at", "best") == "best"
    signalled = listen()
    every = config["train"]["check_replicas_every"]
    judge = Judge(run, plan, feed, config["seed"], policy, log, lambda: check_replicas(engine), every, slow)
    judge.warnings.recall(row for row in run.read_metrics("train") if row["step"] <= start_step)
    return Hooks(
        evaluate=evaluate if plan.eval_rows else None,
        is_best=saving.is_best,
        save=save,
        is_save_overdue=saving.is_overdue,
        wait_copied=saving.saver.wait_copied,
        is_written=lambda: saving.saver.is_written,
        is_failed=lambda: saving.saver.is_failed,
        advance=saving.advance,
        log=log,
        judge=judge,
        stop_requested=lambda: signalled() or (world.is_first and requested(run, attempt)),
        try_longest=lambda: try_longest(engine, feed),
        profile=Profile(run.profile, start_step, world).step if config["train"]["profile"] else nullcontext,
    )


def agree(engine: Engine, config: Values, plan: Plan, feed: Feed, vocabulary: int, world: World) -> None:
    """Holds the live model against its own class, once for each model, code, strategy and precision; Disagreement where
    the loss or the borders of documents differ."""
    settings = {name: config[name] for name in ("strategy", "loss", "tuning")}
    settings |= {name: config["model"][name] for name in ("attention", "kernels")}
    precision = compute_dtype(config["train"]["precision"], world.device)
    settings |= {"precision": str(precision), "device": world.device.type, "world": world.size}
    facts = json.dumps(config["model"]["architecture"] | config["model"]["tiny_architecture"])
    model = weights_version(Path(plan.model_dir)) if plan.model_dir else facts
    file = agreed_file(model, settings, config["cache_dir"])
    if from_first("known" if world.is_first and file.is_file() else "", world):
        return
    check_live(engine, feed.rows, feed.rows_of(1), vocabulary, precision, world)
    if world.is_first:
        with suppress(OSError):  # a cache that this node cannot write to
            write_json(file, settings)


def probe(engine: Engine, checkpoints: Path, step: int, architecture: Any, feed: Feed, world: World) -> None:
    """Keeps what the live model says beside its checkpoint of `step`, for an export to be held against; where that is
    there already, or the checkpoint could not be saved, nothing is done.

    architecture: transformers' config of the model. feed: whose rows begin with what the model is to answer.
    """
    folder = being_saved(checkpoints, step)
    if not from_first(str(folder) if world.is_first and folder and not (folder / PROBE).is_file() else "", world):
        return
    heartbeat.enter("evaluation")
    text = architecture.get_text_config()

    def logits_of(input_ids: torch.Tensor) -> torch.Tensor:
        tokens = input_ids[0].numpy()
        [batch] = to_device([make_batch([Row(tokens, np.zeros(len(tokens), bool))])], world.device)
        return engine.forward(batch, logits)[1]["logits"]

    engine.train(False)
    longest = getattr(text, "max_position_embeddings", None)
    found = take_probe(logits_of, text.vocab_size, probe_prompt(islice(feed.rows, PROMPTS)), longest)
    engine.train(True)
    if world.is_first:
        assert folder is not None
        write_probe(folder, found)
