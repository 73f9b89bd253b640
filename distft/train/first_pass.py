"""Passes over the rows before the first step, for losses that compare the model with another one.

What they measure is stored next to the prepared rows (distft.train.stored): log-probabilities under the frozen base,
by the engine that then trains, or a teacher's distributions, by an engine of its own.
"""

from collections.abc import Callable
from typing import Literal

from distft.data.shards import MANIFEST, Rows
from distft.models.flops import Flops
from distft.run import Plan, read_json
from distft.runtime.process_group import World
from distft.strategies.engine import Engine
from distft.train.feed import make_cut, padding_multiple
from distft.train.reference import attach, base_parts, base_reader, reference_dir
from distft.train.stored import Part, PassSettings, Reader, missing, write_missing
from distft.train.teacher import Measure, attach_teacher, layout_of, teacher_dir, teacher_parts


def open_rows(settings: PassSettings, plan: Plan, split: Literal["train", "eval"], world: World) -> Rows:
    """Opens the prepared rows of a split, with the stored numbers where there are some for the loss."""
    shards = settings.shards if split == "train" else None
    rows = Rows(plan.rows_dir, split, shards, settings.loss.class_weights)
    if (folder := reference_dir(settings, plan)) is not None:
        rows = attach(rows, folder)
    if (folder := teacher_dir(settings, plan)) is not None:
        rows = attach_teacher(rows, folder, top_k(settings, plan))
    return rows


def lacks_reference(settings: PassSettings, plan: Plan, world: World) -> bool:
    """Returns whether numbers of some rows under the frozen base are not stored yet; a collective."""
    folder = reference_dir(settings, plan)
    return folder is not None and _lacks(settings, plan, world, lambda rows: base_parts(folder, rows))


def make_reference(engine: Engine, settings: PassSettings, plan: Plan, flops: Flops, world: World) -> None:
    """Stores the numbers that are missing; the engine holds the base model."""
    folder = reference_dir(settings, plan)
    assert folder is not None, "see lacks_reference"
    for rows in _splits(settings, plan, world):
        cut = make_cut(rows, plan.micro_batch_size, plan.micro_batch_tokens, flops)
        reader = base_reader(rows, cut, _multiple_of(settings, plan, world))
        write_missing(engine, reader, missing(base_parts(folder, rows), world), world)


def lacks_teacher(settings: PassSettings, plan: Plan, world: World) -> bool:
    """Returns whether the teacher has not read some rows yet; a collective."""
    folder = teacher_dir(settings, plan)
    k = top_k(settings, plan) if folder else 0
    return folder is not None and _lacks(settings, plan, world, lambda rows: teacher_parts(folder, rows, k))


def make_teacher(engine: Engine, settings: PassSettings, plan: Plan, flops: Flops, world: World) -> None:
    """Stores the teacher's distributions that are missing; the engine holds the teacher."""
    folder, k = teacher_dir(settings, plan), top_k(settings, plan)
    assert folder is not None, "see lacks_teacher"
    measure = Measure(k, settings.loss.temperature, num_tokens(plan))
    for rows in _splits(settings, plan, world):
        cut = make_cut(rows, plan.micro_batch_size, plan.micro_batch_tokens, flops)
        reader = Reader(rows, cut, layout_of(rows, k), measure, _multiple_of(settings, plan, world))
        write_missing(engine, reader, missing(teacher_parts(folder, rows, k), world), world)


def num_tokens(plan: Plan) -> int:
    """Returns the size of the tokenizer that made the rows, which student and teacher share."""
    return read_json(plan.rows_dir / MANIFEST)["vocab_size"]


def top_k(settings: PassSettings, plan: Plan) -> int:
    """Returns the tokens per target that are stored: loss.top_k, or all that there are."""
    return min(settings.loss.top_k, num_tokens(plan))


def _lacks(settings: PassSettings, plan: Plan, world: World, parts: Callable[[Rows], list[Part]]) -> bool:
    return any(missing(parts(rows), world) for rows in _splits(settings, plan, world))


def _splits(settings: PassSettings, plan: Plan, world: World) -> list[Rows]:
    return [open_rows(settings, plan, split, world) for split in (("train", "eval") if plan.eval_rows else ("train",))]


def _multiple_of(settings: PassSettings, plan: Plan, world: World) -> int:
    return padding_multiple(plan.micro_batch_tokens, settings.compiled, world.device)
