"""Where the answers come from: a checkpoint of a run, its base model, or an exported folder.

It has all that a generation job needs: config, plan, tokens that end an answer, and how prompts are rendered. Nothing
here loads torch.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from distft.config import Config, ConfigError, compose, read_config
from distft.config.command import find_run
from distft.config.errors import did_you_mean, nearest
from distft.config.key import Values
from distft.config.model_folder import task_of, text_facts
from distft.data.example import Example, Segment
from distft.data.key import chat_template
from distft.data.render import make_renderer
from distft.data.shards import MANIFEST, Rows
from distft.data.tokenize import load_tokenizer
from distft.generate.prompts import PromptRenderer
from distft.machines import processes_per_node
from distft.paths import absolute, conf_dir
from distft.run import Plan, RunFolder, read_json, read_yaml
from distft.tasks import load_task

BASE = "base"
WORK = "distft.inference.generate"
GENERATION, CONFIG, ADAPTER = "generation_config.json", "config.json", "adapter_config.json"
PENALTIES = ("repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens")  # applied
# Settings that change the text of a greedy answer too; neutral values of theirs are None, 0, 1 and empty.
NOT_APPLIED = (
    "num_beams",
    "min_length",
    "min_new_tokens",
    "begin_suppress_tokens",
    "sequence_bias",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "encoder_repetition_penalty",
    "exponential_decay_length_penalty",
    "guidance_scale",
)
_POSITIONS = ("max_position_embeddings", "n_positions")
_LOOKED_AT = 20  # training rows, to see whether they are plain text
_TURN = Example((Segment("user", "Question", False), Segment("assistant", "Answer", True)))
_TEXT = Example((Segment("text", "Text", True),))


@dataclass(frozen=True)
class Source:
    """One model to generate with.

    checkpoint: None for the base model or an exported folder. adapters: folder of an exported adapter. ends: ids of the
    tokens that end an answer. positions: for prompt and answer together; None: unlimited.
    """

    name: str
    config: Config
    plan: Plan
    checkpoint: Path | None
    render: PromptRenderer
    ends: tuple[int, ...]
    penalties: Mapping[str, Any]
    positions: int | None
    held_out: Rows | None = None
    adapters: Path | None = None
    notes: tuple[str, ...] = ()


def find_source(place: str, at: str | None, changes: Mapping[str, str], default_at: str = "latest") -> Source:
    """Returns the model that `run=` and `at=` name; ConfigError when there is none.

    at: best, latest, step-N or base; None: `default_at`. changes: of the command line: `strategy`, `precision`,
    `launcher.processes_per_node`.
    """
    folder = absolute(place)
    if (folder / "config.yaml").is_file() and (folder / "plan.json").is_file():
        return _of_run(find_run(place), at or default_at, changes)
    if (folder / ADAPTER).is_file() or (folder / CONFIG).is_file():
        if at is not None:
            raise ConfigError([f"at={at}: {folder} is an exported folder, without checkpoints. Try: its run folder"])
        return _of_adapter(folder, changes) if (folder / ADAPTER).is_file() else _of_folder(folder, changes)
    find_run(place)  # raises, with the nearest run
    raise ConfigError([f"run={place}: holds neither a run nor a model"])


def find_text_source(place: str, at: str | None, changes: Mapping[str, str], default_at: str = "latest") -> Source:
    """Does the same; ConfigError for a model that gives no text, such as a classifier."""
    source = find_source(place, at, changes, default_at)
    task = source.config.model.task
    if load_task(task).model_class != "AutoModelForCausalLM":
        again = f"distft evaluate run={place}"
        raise ConfigError([f"run={place}: a model of model.task={task} gives no text. Try: {again}"])
    return source


def _of_run(run: RunFolder, at: str, changes: Mapping[str, str]) -> Source:
    try:
        config = read_config(run)
    except ValueError as error:
        raise ConfigError([f"{run.config}: {error}. Try: another run"]) from error
    plan = run.read_plan()
    checkpoint = None if at == BASE else _checkpoint(run, at)
    config, plan = _changed(config, plan, changes, plan.processes_per_node)
    config = config.changed({"checkpoint.resume": str(checkpoint) if checkpoint else "never"})
    rows_dir = Path(plan.data_dir) if plan.data_dir and Path(plan.data_dir).is_dir() else None
    tokenizer = _tokenizer(plan.tokenizer_dir, config.model.trust_remote_code)
    recorded = read_json(rows_dir / MANIFEST).get("rendering") if rows_dir else None
    template = recorded["chat_template"] or "none" if recorded else _template(config.data.chat_template)
    renderer = make_renderer(tokenizer, template, config.data.seed_date)
    if not recorded:  # the rows are deleted, or of an older version
        renderer(_TURN if renderer.chat_template else _TEXT)
    ends = recorded["end_token_ids"] if recorded else tokenizer.convert_tokens_to_ids(sorted(renderer.ends))
    held_out = Rows(rows_dir, "eval") if rows_dir and plan.eval_rows else None
    limits = limits_of(config, plan, ends)
    return Source(
        name=f"{run.path.name} at {checkpoint.name if checkpoint else BASE}",
        config=config,
        plan=plan,
        checkpoint=checkpoint,
        render=PromptRenderer(renderer, tokenizer, is_plain=rows_dir is not None and _is_plain(rows_dir)),
        ends=limits.ends,
        penalties=limits.penalties,
        positions=limits.positions,
        held_out=held_out,
        notes=limits.notes,
    )


@dataclass(frozen=True)
class Limits:
    """What a model's own files say of its answers; the fields are those of Source."""

    ends: tuple[int, ...]
    penalties: Mapping[str, Any]
    positions: int | None
    notes: tuple[str, ...]


def limits_of(config: Config, plan: Plan, ends: Sequence[int]) -> Limits:
    """Returns the limits of a run's base model. ends: ids of the tokens that ended the trained texts."""
    base = Path(plan.model_dir) if plan.model_dir else None
    return _limits(base, text_facts(read_json(base / CONFIG) if base else config.model.facts), ends)


def _limits(folder: Path | None, facts: Mapping[str, Any], ends: Sequence[int] = ()) -> Limits:
    """Returns the limits of an architecture and of the generation_config.json in a folder."""
    generation, notes = _generation(folder, facts)
    return Limits(
        tuple(dict.fromkeys([*_ids(generation.get("eos_token_id")), *ends])),
        {name: generation[name] for name in PENALTIES if generation.get(name)},
        _positions(facts),
        notes,
    )


def _of_folder(folder: Path, changes: Mapping[str, str], adapters: Path | None = None) -> Source:
    """Returns the model in a Hugging Face folder, with the tokenizer in `adapters` if it is the base of one."""
    task, labels = task_of(read_json(folder / CONFIG))
    words = [f"model.path={folder}", f"model.task={task}", *_word(changes)]
    if labels is not None and labels.problem_type == "multi_label_classification":
        words.append("loss=bce")
    # a config wants training rows; nothing reads them here
    config = compose([*words, f"data.train={folder / CONFIG}", "data.eval=null"])
    plan = replace(_plan_of(folder, adapters or folder), labels=asdict(labels) if labels else None)
    config, plan = _changed(config, plan, changes, processes_per_node({"processes_per_node": "auto"}))
    config = config.changed({"checkpoint.resume": "never"})
    if adapters:
        config = config.with_values(config.values | {"tuning": _tuning(adapters)})
    tokenizer = _tokenizer(plan.tokenizer_dir, False)
    limits = _limits(adapters or folder, text_facts(read_json(folder / CONFIG)))
    return Source(
        name=str(adapters or folder),
        config=config,
        plan=plan,
        checkpoint=None,
        render=PromptRenderer(make_renderer(tokenizer, "auto"), tokenizer),
        ends=limits.ends,
        penalties=limits.penalties,
        positions=limits.positions,
        adapters=adapters,
        notes=limits.notes,
    )


def _of_adapter(folder: Path, changes: Mapping[str, str]) -> Source:
    """Returns an exported adapter with its base model; ConfigError when the base model is not on this machine."""
    name = read_json(folder / ADAPTER).get("base_model_name_or_path") or ""
    base = absolute(name)
    if not name or not (base / CONFIG).is_file():
        raise ConfigError(
            [
                f"run={folder}: an adapter of {name or 'a model without a name'}, which is not a folder here. "
                "Try: run= its run folder, or distft export format=merged"
            ]
        )
    return _of_folder(base, changes, adapters=folder)


def _tuning(folder: Path) -> Values:
    """Returns the group `tuning` that an adapter_config.json describes; ConfigError for other kinds of adapters."""
    from distft.models.quantization import FILE, SETTINGS  # imports torch

    settings = read_json(folder / ADAPTER)
    targets = settings.get("target_modules")
    plain = {"use_dora": False, "use_rslora": False, "bias": "none", "modules_to_save": None, "peft_type": "LORA"}
    other = [f"{key}={settings[key]}" for key, value in plain.items() if settings.get(key, value) not in (value, [])]
    if not isinstance(targets, list) or any("." in target for target in targets):
        other.append(f"target_modules={targets}")
    if other:
        raise ConfigError([f"run={folder}: adapters with {', '.join(other)} are not supported. Try: merge them first"])
    quantized = read_json(folder / FILE) if (folder / FILE).is_file() else None
    if quantized is not None and SETTINGS.items() - quantized.items():
        raise ConfigError([f"run={folder}: {FILE} is not NF4 with double quantization. Try: merge it first"])
    return {
        "_target_": f"distft.models.adapters.{'Lora' if quantized is None else 'QLora'}",
        "rank": settings["r"],
        "alpha": float(settings["lora_alpha"]),
        "dropout": 0.0,
        "target_modules": targets,
    }


def _checkpoint(run: RunFolder, at: str) -> Path:
    from distft.checkpoint.choose import choose  # imports torch

    try:
        return choose(run.checkpoints, at)
    except ValueError as error:
        raise ConfigError([f"{error}, {BASE}"]) from error


def _changed(config: Config, plan: Plan, changes: Mapping[str, str], processes: int) -> tuple[Config, Plan]:
    """Returns config and plan of a job on this machine; processes: how many where the command line does not say."""
    values = config.values
    given = changes.get("launcher.processes_per_node")
    if given is not None:
        processes = processes_per_node({"processes_per_node": given if given == "auto" else _count(given)})
    if word := changes.get("strategy"):
        values = values | {"strategy": _strategy(word)}
    shards = values["strategy"].get("shard_size") or 1
    if values["strategy"].get("layout") == "hsdp" and processes % shards:
        raise ConfigError(
            [
                f"launcher.processes_per_node={processes}: strategy.shard_size={shards} of the run does not divide it. "
                "Try: strategy=fsdp"
            ]
        )
    precision = changes.get("precision", values["train"]["precision"])
    if precision not in ("auto", "fp32", "bf16"):
        raise ConfigError([f"precision={precision}: Allowed: auto, fp32, bf16"])
    changed = config.with_values(values).changed(
        {"work": WORK, "train.compile": False, "train.precision": precision, "train.activation_checkpointing": "none"}
    )
    return changed, replace(plan, nodes=1, processes_per_node=processes, world=processes)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError([f"launcher.processes_per_node={text}: is a number of at least 1, or auto"])
    return int(text)


def _word(changes: Mapping[str, str]) -> list[str]:
    return [f"strategy={changes['strategy']}"] if "strategy" in changes else []


def _strategy(word: str) -> Values:
    words = sorted(file.stem for file in (conf_dir() / "strategy").glob("*.yaml"))
    if word not in words:
        raise ConfigError([f"strategy={word}: Allowed: {', '.join(words)}.{did_you_mean(nearest(word, words))}"])
    return read_yaml(conf_dir() / "strategy" / f"{word}.yaml")


def _tokenizer(folder: str | None, trust_remote_code: bool) -> Any:
    try:
        return load_tokenizer(folder, trust_remote_code)
    except ValueError as error:
        raise ConfigError([str(error)]) from error


def _template(value: str) -> str:
    try:
        return chat_template(value)
    except ValueError as error:
        raise ConfigError([str(error)]) from error


def _is_plain(rows_dir: Path) -> bool:
    """Returns whether the training rows are text without a prompt: trained from the first tokens on."""
    rows = Rows(rows_dir, "train")
    first = [rows[i] for i in range(min(_LOOKED_AT, len(rows)))]
    return bool(first) and all(row.trained[1:].all() for row in first)


def _generation(folder: Path | None, facts: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Returns the settings of generation_config.json, the end tokens from config.json where it has none, and notes."""
    file = folder / GENERATION if folder else None
    try:
        values = read_json(file) if file and file.is_file() else {}
    except ValueError as error:
        raise ConfigError([f"{file}: is not JSON: {error}. Try: fetch the model again"]) from error
    unused = [f"{name}={json.dumps(values[name])}" for name in NOT_APPLIED if values.get(name) not in (None, 0, 1, [])]
    notes = (f"{file}: {', '.join(unused)} is not applied",) if unused else ()
    if values.get("eos_token_id") is None:
        values = values | {"eos_token_id": facts.get("eos_token_id")}
    return values, notes


def _ids(value: Any) -> list[int]:
    return [] if value is None else [int(each) for each in (value if isinstance(value, list) else [value])]


def _positions(facts: Mapping[str, Any]) -> int | None:
    return next((int(facts[name]) for name in _POSITIONS if facts.get(name)), None)


def _plan_of(model_dir: Path, tokenizer_dir: Path) -> Plan:
    """Returns a plan that names a model folder and nothing else."""
    return Plan(
        nodes=1,
        processes_per_node=1,
        world=1,
        micro_batch_size=1,
        micro_batch_tokens=None,
        accumulation=1,
        steps=0,
        rows=0,
        eval_rows=0,
        epochs=0.0,
        tokens=0,
        estimated=True,
        parameters=0,
        model_dir=str(model_dir),
        tokenizer_dir=str(tokenizer_dir),
        data_dir=None,
        memory={},
    )
