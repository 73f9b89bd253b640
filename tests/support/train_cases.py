"""Trains many small cases on one group of real processes: `python -m tests.support.train_cases OUT CASES.json`.

A case names YAML files in conf/ for its strategy and model, so a new YAML joins the matrix automatically.
"""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from hydra.utils import instantiate
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from distft import worker
from distft.checkpoint.load import Checkpoint, find, restore
from distft.checkpoint.retention import Retention
from distft.checkpoint.save import Saver, Snapshot
from distft.config import Config
from distft.data.order import Order, row_borders
from distft.evaluate.held_out import held_out
from distft.models.build import architecture, skeleton
from distft.models.flops import Flops
from distft.paths import conf_dir
from distft.runtime.determinism import seed_for
from distft.runtime.process_group import World, all_reduce_sum, differ, process_group, texts_of_all
from distft.tasks import load_task
from distft.train.ema import Ema, in_force, settle
from distft.train.feed import Feed, Prefetch, all_rows, make_cut
from distft.train.state import fill_from_base, save_probe
from distft.train.step import StepHooks, Targets, train_step
from tests.support.rows import open_rows

GLOBAL_ROWS = 8
ADAMW = {"lr": 1e-3, "weight_decay": 0.1, "betas": (0.9, 0.95), "fused": True}
RANDOM_MODEL: Any = SimpleNamespace(model_dir=None, labels=None)  # all that an engine needs of a plan
REAL_VOCABULARY = {"vocab_size": 49152, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}


def tiny_model(name: str, **changes: Any) -> Any:
    """Returns the tiny random instance of conf/model/NAME.yaml, on meta."""
    values = yaml.safe_load((conf_dir() / "model" / f"{name}.yaml").read_text())
    facts = values["architecture"] | values["tiny_architecture"] | changes
    return skeleton(architecture(None, facts), values["attention"])


def instantiate_strategy(name: str, **settings: Any) -> Any:
    """Returns the strategy of conf/strategy/NAME.yaml."""
    return instantiate(yaml.safe_load((conf_dir() / "strategy" / f"{name}.yaml").read_text()) | settings)


def part(group: str, name: str) -> dict[str, Any]:
    return yaml.safe_load((conf_dir() / group / f"{name}.yaml").read_text())


def config_of(case: dict[str, Any]) -> Config:
    """Returns the config of the case's engine, from conf/ and the case's settings; the rest are defaults.

    lora: settings of adapters; only these are then trained. tuning: another word of that kind. adamw: further settings
    of the optimizer. task, loss: of rows with labels.
    """
    model = part("model", case["model"]) | {"task": case.get("task", "causal_lm")}
    model["tiny_architecture"] |= case.get("architecture", {})
    tuning = part("tuning", case.get("tuning", "lora")) | case["lora"] if "lora" in case else part("tuning", "full")
    values = {
        "model": model,
        "tuning": tuning,
        "strategy": part("strategy", case["strategy"]) | case.get("settings", {}),
        "optimizer": part("optimizer", "adamw") | ADAMW | case.get("adamw", {}),
        "loss": part("loss", case.get("loss", "cross_entropy")) | case.get("of_loss", {}),
        "train": {
            "precision": {"float32": "fp32", "bfloat16": "bf16"}[case.get("precision", "float32")],
            "activation_checkpointing": case.get("recomputed", "none"),
            "compile": case.get("compiled", False),
        },
    }
    return Config.of(values)


def make_engine(case: dict[str, Any], world: World) -> Any:
    """Returns the engine that a worker creates from the case's config."""
    return worker.make_engine(config_of(case), plan_of(case), world)


def plan_of(case: dict[str, Any]) -> Any:
    return SimpleNamespace(model_dir=None, labels=case.get("labels"))


class Reductions(TorchDispatchMode):
    """Collects the dtypes of the floating-point tensors that processes reduce."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if name.startswith("c10d.") and "reduce" in name:
            tensors = [
                leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
            ]
            self.dtypes |= {str(tensor.dtype) for tensor in tensors}
        return func(*args, **(kwargs or {}))


def norm_of_gradients(engine: Any) -> float:
    """Returns the fp64 norm of the whole gradient of the engine, gathered from all processes."""
    if not hasattr(engine, "deepspeed"):
        whole = [parameter.grad.full_tensor() for parameter in engine.objective.parameters()]
        return torch.cat([gradient.double().view(-1) for gradient in whole]).norm().item()
    zero = engine.deepspeed.optimizer
    parts = [part for group in zero.averaged_gradients.values() for part in group]
    if not parts:  # offloaded
        name = "fp32_partitioned_groups_flat" if engine.stage == 3 else "single_partition_of_fp32_groups"
        parts = [group.grad for group in getattr(zero, name)]
    own = torch.stack([part.double().square().sum() for part in parts]).sum()
    return all_reduce_sum(own).sqrt().item()


def frozen_sums(engine: Any, world: World) -> dict[str, float]:
    """Returns the fp64 sum of each frozen weight, each element counted once."""
    pieces = [piece for piece in engine.pieces() if piece.frozen and piece.writes]
    own: dict[str, float] = {}
    for piece in pieces:
        own[piece.name] = own.get(piece.name, 0.0) + piece.data().double().sum().item()
    reported = [json.loads(text) for text in texts_of_all(json.dumps(own), world)]
    return {
        name: sum(each.get(name, 0.0) for each in reported) for name in sorted({n for each in reported for n in each})
    }


def found(case: dict[str, Any], world: World) -> str:
    try:
        checkpoint = find(Path(case["find"]), case["resume"], world)
    except RuntimeError as error:
        return str(error)
    return checkpoint.folder.name if checkpoint else "none"


def save(engine: Any, folder: Path, step: int, world: World, background: bool = False) -> None:
    saver = Saver(folder, Retention(9), world, snapshot=Snapshot(world.device) if background else None)
    saver.start(engine, step, {})
    saver.finish()


def run_case(case: dict[str, Any], world: World) -> dict[str, Any]:
    """Trains one case; returns losses, gradient norms, held-out metrics and the settings in effect.

    micro: rows per forward; a list has one entry per step. probe: false where nothing is exported from `save`. A case
    with `find` trains nothing: it reports which checkpoint each process would resume, or the error.
    """
    if "find" in case:
        return {"case": case, "found": texts_of_all(found(case, world), world)}
    engine, plain = make_engine(case, world), worker.make_skeleton(config_of(case), plan_of(case))
    flops = Flops.of(plain)
    seed = case.get("seed", 0)
    start = 0
    if case.get("resume"):
        checkpoint = Checkpoint(Path(case["resume"]), world)
        fill_from_base(engine, [piece for piece in engine.pieces() if piece.frozen], plain, seed, None, world)
        restore(engine, checkpoint, world)
        start = checkpoint.step
        settle(engine, checkpoint, is_kept="ema" in case)
        if case.get("reload"):
            save(engine, Path(case["reload"]), start, world)
    else:
        fill_from_base(engine, list(engine.pieces()), plain, seed, None, world)
        engine.refresh()
    class_weights = case.get("of_loss", {}).get("class_weights")
    rows = open_rows(Path(case["rows"]), "train", class_weights)
    steps = case.get("steps", 5)
    splits = case["micro"] if isinstance(case["micro"], list) else [case["micro"]]
    cuts = [make_cut(rows, micro, case.get("micro_tokens"), flops) for micro in splits]
    feeds = [Feed(rows, Order(len(rows), seed), row_borders(10**6, GLOBAL_ROWS), cut, world) for cut in cuts]
    done, norms = [], list[float]()
    engine.train(True)
    reductions, watches = Reductions(), not case.get("compiled")  # nothing is compiled under such a mode
    ahead = Prefetch(feeds[0])
    ema = Ema(engine, case["ema"]) if "ema" in case else None
    hooks = StepHooks(before_update=(lambda: norms.append(norm_of_gradients(engine))) if case.get("norms") else tuple)
    for step in range(start + 1, steps + 1):
        feed = feeds[step % len(feeds)]
        targets = Targets(feed.num_targets(step), feed.target_weight(step))
        with reductions if watches and step == start + 1 else nullcontext():
            result = train_step(
                engine,
                ahead.batches(step) if len(feeds) == 1 else feed.batches(step),
                targets,
                world,
                case.get("max_norm", 1.0),
                seed_for(seed, step),
                hooks,
            )
        done.append([result.loss, result.grad_norm])
        if ema and not result.is_skipped:
            ema.update(step)
        if case.get("save_each"):
            save(engine, Path(case["save_each"]) / str(step), step, world)
    ahead.close()
    answer = {
        "case": case,
        "steps": done,
        "norms": norms,
        "effective": engine.effective() | {"reductions": sorted(reductions.dtypes)},
    }
    if case.get("frozen"):
        answer["frozen"] = frozen_sums(engine, world)
    if "perturb" in case:
        if world.rank == case["perturb"]:
            next(parameter for parameter in engine.objective.parameters() if parameter.ndim >= 2).data.mul_(1 + 1e-6)
        fingerprint, group = engine.fingerprint()
        answer["differ"] = differ(fingerprint, group)
    if case.get("save"):
        save(engine, Path(case["save"]), steps, world, case.get("background", False))
        if case.get("probe"):  # for an export
            save_probe(engine, Path(case["save"]), steps, plain.config, feeds[0], world)
    if case.get("eval_micro"):
        held = open_rows(Path(case["rows"]), "eval", class_weights)
        task = load_task(case.get("task", "causal_lm"))
        cuts = [make_cut(held, *micro, flops) for micro in case["eval_micro"]]
        with in_force(engine, is_average=ema is not None):
            answer["eval"] = [held_out(engine, all_rows(held, cut, world), world, task) for cut in cuts]
    return answer


def main() -> None:
    out, cases = sys.argv[1:]
    torch.set_num_threads(1)
    with process_group() as world:
        answers = [run_case(case, world) for case in json.loads(Path(cases).read_text())]
        if world.is_first:
            Path(out).write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
