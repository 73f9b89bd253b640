"""The Plan of a config: the numbers that the run's programs share, derived once."""

from collections.abc import Mapping
from dataclasses import asdict
from math import ceil
from pathlib import Path
from typing import Any

from distft.config import Config, ConfigError
from distft.config.model_folder import facts_of, refused_dropout, text_facts, wrong_model
from distft.config.parts import Tuning
from distft.config.rules import broken_by_length
from distft.config.rules.contract import Facts
from distft.data.hub import NotFetched, local_folder
from distft.data.key import tokenizer_dir
from distft.data.shards import MANIFEST
from distft.machines import node_range, processes_per_node
from distft.model_check.verdict import read_verdict, verdict_errors
from distft.paths import conf_dir
from distft.plan.activations import activation_bytes
from distft.plan.fit import AUTO, GIB, Room, device_bytes, rows_that_fit, tokens_that_fit
from distft.plan.labels import model_label
from distft.plan.memory import Architecture, count_adapters, linear_layers, memory_table, parts_of
from distft.plan.rows import Extent, extent
from distft.plan.step import (
    Lengths,
    MicroBatch,
    forward,
    longest_row,
    on_accelerators,
    sizes_of,
    step_bytes,
    with_step,
)
from distft.plan.teacher import is_teacher_checked, teacher_of
from distft.run import Plan, read_json
from distft.tasks import load_task
from distft.tasks.labels import Labels
from distft.tensors.weight_files import content_hash, notes, weight_errors

_CLAMPS = ("gemma3n", "gemma3n_text")  # read the weights of linear layers, which have none in 4 bits


def make_plan(
    config: Config,
    resumed: Mapping[str, Any] | None = None,
    own: Plan | None = None,
    accelerators: bool | None = None,
) -> Plan:
    """Returns the plan of the run; ConfigError when data or model do not match the config.

    resumed: manifest of the checkpoint to resume. own: the frozen plan, whose rows and model the run keeps even if
    their source files have changed. accelerators: whether the run has some; None: as this machine or the cluster.
    """
    accelerators = on_accelerators(config) if accelerators is None else accelerators
    try:
        reads = extent(config, resumed, own)
    except (ValueError, RuntimeError) as error:
        raise ConfigError([str(error)]) from error
    known = Facts(config.values, config.choices, config.given)
    if not reads.estimated and (errors := broken_by_length(known, reads.steps)):
        raise ConfigError(errors)
    (_, nodes), per_node = node_range(config.launcher.nodes), processes_per_node(config.values["launcher"])
    world = nodes * per_node
    model_dir, hashed = _checked_model(config, reads, own)
    architecture = config.model.facts if config.model.tiny else config.model.architecture
    parts = parts_of(model_dir, architecture)
    try:
        adapters = _adapters(config.tuning, model_dir, architecture)
    except ValueError as error:
        raise ConfigError([str(error)]) from error
    layers = linear_layers(model_dir, architecture)
    sizes = sizes_of(config, parts, layers, adapters, world, per_node, accelerators)
    memory = memory_table(config.choices["strategy"], config.strategy, conf_dir() / "strategy", sizes) if sizes else {}
    teacher_dir, teacher_hash = teacher_of(config, own)
    if not is_auto(config):
        micro = micro_batch(config)
    elif own is not None and own.data_dir and (own.micro_batch_size is None) == config.data.packing:
        micro = own.micro_batch_size, own.micro_batch_tokens  # frozen with the run
    else:
        facts = facts_of(model_dir) if model_dir else architecture
        micro = _largest(config, memory, text_facts(facts), reads, world, per_node)
    facts = text_facts(facts_of(model_dir)) if model_dir else architecture
    if config.tuning.is_quantized and (kind := facts.get("model_type")) in _CLAMPS:
        raise ConfigError([f"tuning=qlora: {kind} clamps the weights of linear layers itself. Try: tuning=lora"])
    batch = forward(config, micro, _lengths(config, reads, world), accelerators)
    memory = with_step(memory, step_bytes(config, facts, batch))
    return Plan(
        nodes=nodes,
        processes_per_node=per_node,
        world=world,
        micro_batch_size=micro[0],
        micro_batch_tokens=micro[1],
        accumulation=_accumulation(config, reads, world, micro),
        steps=reads.steps,
        reads=reads.reads,
        base_step=reads.base.step,
        base_row=reads.base.row,
        rows=reads.rows,
        eval_rows=reads.eval_rows,
        epochs=reads.rows_read / reads.rows if reads.rows else 0.0,
        tokens=reads.tokens,
        estimated=reads.estimated,
        parameters=parts.total if parts else 0,
        adapters=adapters,
        model_dir=str(model_dir) if model_dir else None,
        model_hash=hashed,
        tokenizer_dir=own.tokenizer_dir if own else _tokenizer_dir(config),
        data_dir=str(reads.data_dir) if reads.data_dir else None,
        memory=memory,
        forward_tokens=batch.tokens,
        attended=reads.attended,
        targets=reads.targets,
        teacher_dir=teacher_dir,
        teacher_hash=teacher_hash,
        labels=_labels(config, reads.data_dir),
        model_name=model_label(config.model, config.choices.get("model")),
    )


def _labels(config: Config, data_dir: Path | None) -> Mapping[str, Any] | None:
    """Returns the labels of the prepared rows; ConfigError where they do not fit the loss."""
    found = read_json(data_dir / MANIFEST).get("labels") if data_dir else None
    labels, word = Labels.of(found), config.choices.get("loss")
    if config.model.task == "reward_model":  # whose head has one output, though its rows have no label
        return asdict(Labels("regression", 1))
    if labels is None:
        return None
    has_several = labels.problem_type == "multi_label_classification"
    if has_several and word == "cross_entropy":
        raise ConfigError(
            ["loss=cross_entropy: rows have lists of classes, and it is for one class each. Try: loss=bce"]
        )
    if word == "bce" and not has_several:
        rule = "rows have one class each, and it is for lists of classes. Try: loss=cross_entropy"
        raise ConfigError([f"loss=bce: {rule}"])
    weights = getattr(config.loss, "class_weights", None)
    if weights and len(weights) != labels.count:
        names = ", ".join(labels.names)
        raise ConfigError(
            [f"loss.class_weights={weights}: {len(weights)} weights, and rows have {labels.count} classes: {names}"]
        )
    return found


def _checked_model(config: Config, reads: Extent, own: Plan | None) -> tuple[Path | None, str | None]:
    """Returns the model's folder and content hash; ConfigError when it is unusable, or not the one of `own`."""
    if own is None:
        model_dir = _model_dir(config)
        check_base_model(config, reads.data_dir)
        wanted = config.model.dropout
        if model_dir and wanted is not None and (message := refused_dropout(wanted, text_facts(facts_of(model_dir)))):
            raise ConfigError([message])
    else:
        model_dir = Path(own.model_dir) if own.model_dir else None
        trust = config.model.trust_remote_code
        task = load_task(config.model.task)
        if model_dir and (wrong := list(wrong_model(model_dir, trust_remote_code=trust, task=task))):
            raise ConfigError(wrong)
    hashed = content_hash(model_dir) if model_dir else None
    if own and own.model_hash and hashed != own.model_hash:
        rule = "its files have changed since the run began. Try: the original folder, another name"
        raise ConfigError([f"model.path={model_dir}: {rule}, or checkpoint.allow_change=[model]"])
    return model_dir, hashed


def check_base_model(config: Config, data_dir: Path | None = None) -> None:
    """Raises ConfigError when a fetched model is unusable: by its files, by the tokenizer of the rows in `data_dir`, or
    by an earlier check."""
    model_dir = _model_dir(config)
    if model_dir is None:
        return
    task = load_task(config.model.task)
    wrong = list(wrong_model(model_dir, trust_remote_code=config.model.trust_remote_code, task=task))
    if not wrong:
        tokens = read_json(data_dir / MANIFEST)["vocab_size"] if data_dir else None
        wrong = list(weight_errors(model_dir, facts_of(model_dir), config.data.max_length, tokens))
    if wrong or (wrong := verdict_errors(model_dir, config.cache_dir, task.name)):
        raise ConfigError(wrong)


def is_checked(config: Config) -> bool:
    """Returns whether a base model with this content has been checked, and a teacher; a random instance needs no
    check."""
    model_dir = _model_dir(config)
    if not is_teacher_checked(config):
        return False
    if config.model.tiny or model_dir is None:
        return config.model.tiny
    return read_verdict(model_dir, config.cache_dir, config.model.task) is not None


def model_notes(config: Config) -> list[str]:
    """Returns notes for the user about a usable model."""
    model_dir = _model_dir(config)
    if model_dir is None:
        return []
    kept = read_verdict(model_dir, config.cache_dir, config.model.task) or {}
    unmeasured = kept.get("unmeasured")
    return [
        *(f"{model_dir}: {line}" for line in notes(model_dir, facts_of(model_dir), config.data.max_length)),
        *(f"{model_dir}: {line}" for line in kept.get("notes", ())),
        *([f"{model_dir}: not measured before its start ({unmeasured})"] if unmeasured else []),
    ]


_UNEVEN = 1.25  # tokens of the largest share of a step over the mean one


def micro_batch(config: Config) -> MicroBatch:
    """Returns the largest micro-batch; `auto` counts as the smallest."""
    rows, tokens, longest = config.train.micro_batch_size, config.train.micro_batch_tokens, longest_row(config)
    if config.data.packing:
        return None, tokens if isinstance(tokens, int) else longest
    return rows if isinstance(rows, int) else 1, None


def is_auto(config: Config) -> bool:
    """Returns whether the micro-batch is to be the largest that fits."""
    return (config.train.micro_batch_tokens if config.data.packing else config.train.micro_batch_size) == AUTO


def _largest(
    config: Config, memory: Mapping[str, Mapping[str, int]], facts: Architecture, reads: Extent, world: int, node: int
) -> MicroBatch:
    """Returns the largest micro-batch that fits into the memory of a process here; ConfigError where none does, or
    where that is not known.

    node: processes per node.
    """
    key = "train.micro_batch_tokens" if config.data.packing else "train.micro_batch_size"
    by_hand = f"{key}={longest_row(config) if config.data.packing else 4}"
    counted = memory.get(config.choices["strategy"])
    if config.choices["launcher"] != "local":
        rule = f"the memory of the nodes of launcher={config.choices['launcher']} is not known here"
        raise ConfigError([f"{key}=auto: {rule}. Try: {by_hand}"])
    found = device_bytes(node)
    if counted is None or found is None:
        raise ConfigError([f"{key}=auto: the memory of this run is not known. Try: {by_hand}"])
    total, is_accelerator = found
    room = Room(total, counted["total"] - counted["host"] + counted.get("gathered", 0), is_accelerator)
    try:
        one = forward(config, (None, 1), Lengths(), is_accelerator)
        tokens = tokens_that_fit(room, activation_bytes(facts, one))
    except ValueError as error:
        raise ConfigError([f"{key}=auto: {error}. Try: {by_hand}"]) from error
    longest = min(longest_row(config), reads.longest or longest_row(config))
    if tokens < longest:
        taken = f"{room.state / GIB:.1f} of {total / GIB:.1f} GiB are taken"
        instead = "strategy=fsdp, or train.activation_checkpointing=full"
        raise ConfigError([f"{key}=auto: a row of {longest} tokens does not fit: {taken}. Try: {instead}"])
    if config.data.packing:
        step = ceil(_UNEVEN * reads.tokens / max(1, reads.steps) / world) if reads.tokens else tokens
        return None, max(longest_row(config), min(tokens, step))
    rows, by_tokens = config.train.global_batch_size, config.train.global_batch_tokens
    return rows_that_fit(tokens, longest, rows // world if rows and not by_tokens else None), None


def _accumulation(config: Config, reads: Extent, world: int, micro: MicroBatch) -> int:
    """Returns micro-batches per step; an average if steps or micro-batches are counted in tokens."""
    rows, tokens = micro
    if tokens:
        return max(1, ceil(reads.tokens / max(1, reads.steps) / (tokens * world)))
    assert rows is not None
    if config.train.global_batch_tokens:
        rows_per_step = (reads.rows_read - reads.base.row) / max(1, reads.steps - reads.base.step)
    else:
        rows_per_step = config.train.global_batch_size or 0
    return max(1, ceil(rows_per_step / (rows * world)))


def _lengths(config: Config, reads: Extent, world: int) -> Lengths:
    mean = max(1, reads.tokens // reads.rows_read) if reads.rows_read else None
    rows = None if config.train.global_batch_tokens else config.train.global_batch_size
    return Lengths(reads.longest, mean, ceil(rows / world) if rows else None)


def _model_dir(config: Config) -> Path | None:
    """Returns the model's folder; None for a random instance, and before the model is fetched."""
    if config.model.tiny:
        return None
    try:
        return local_folder(config.model.path, config.model.revision, config.cache_dir)
    except NotFetched:
        return None


def _tokenizer_dir(config: Config) -> str | None:
    try:
        folder = tokenizer_dir(config)
    except NotFetched:
        return None
    return str(folder) if folder else None


def _adapters(tuning: Tuning, model_dir: Path | None, architecture: Architecture) -> int | None:
    """Returns the parameters of adapters, 0 when they are unknown; None when the model itself is trained."""
    if not tuning.has_adapters:
        return None
    return count_adapters(model_dir, architecture, tuning.rank, tuning.target_modules) or 0
