"""Rules of the run as a whole: its name, its end, what it resumes from, its processes, a sweep's own
keys, and what a model that OpenAI trains does not take."""

import os

from distft.config.errors import did_you_mean, nearest_key
from distft.config.key import covers, leaves
from distft.config.rules.contract import Facts, rule
from distft.machines import num_accelerators

MOST_BYTES = 200  # of a name; a file system takes 255, and a file next to it gets some more
_HAS_ADAPTERS = {
    "distft.models.adapters.Full": False,
    "distft.models.adapters.Lora": True,
    "distft.models.adapters.QLora": True,
}  # of others nobody knows here


@rule(
    ("name",),
    "a name that is no single folder's, or longer than 200 bytes",
    "runs_dir/name is the run's folder; a leading dot or dash, / and control characters are kept out",
)
def name(facts: Facts) -> str | None:
    asked = facts["name"]
    if asked is None:
        return None
    fine = "".join(letter if letter.isprintable() and letter not in "/\\" else "-" for letter in asked.strip(" ."))
    fine = fine.lstrip("-.") or "first"
    if len(os.fsencode(asked)) > MOST_BYTES:
        return f"name={asked[:40]}... has {len(os.fsencode(asked))} bytes, of {MOST_BYTES} at most. Try: a shorter name"
    if fine == asked:
        return None
    printable = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in asked)
    return f"name={printable} is not the name of one folder. Try: name={fine}"


@rule(("train.max_steps", "train.epochs"), "neither steps nor epochs", "the run would not end")
def no_end(facts: Facts) -> str | None:
    if facts["train.max_steps"] or facts["train.epochs"]:
        return None
    return "train.max_steps=null and train.epochs=null: the run has no end. Try: train.epochs=1"


@rule(
    ("checkpoint.every_steps", "checkpoint.every_minutes"),
    "neither steps nor minutes between checkpoints",
    "whatever ends the run would take all of it",
)
def no_saves(facts: Facts) -> str | None:
    if facts["checkpoint.every_steps"] or facts["checkpoint.every_minutes"]:
        return None
    return (
        "checkpoint.every_steps=null and checkpoint.every_minutes=null: a crash would lose the whole run. "
        "Try: checkpoint.every_minutes=15"
    )


@rule(("checkpoint.allow_change",), "a change of a key that there is none of", "it would allow nothing")
def allowed_change(facts: Facts) -> str | None:
    keys = [key for key, _ in leaves(facts.values)]
    for asked in map(str, facts["checkpoint.allow_change"]):
        if not any(covers([asked], key) for key in keys):
            meant = did_you_mean(nearest_key(asked, keys))
            return f"checkpoint.allow_change=[{asked}] is neither a key nor a group of keys.{meant}"
    return None


@rule(
    ("export.format", "tuning._target_"),
    "export.format=merged or peft without adapters, and huggingface with them",
    "merged and peft are the two ways to write adapters",
)
def export_format(facts: Facts) -> str | None:
    asked, target = facts["export.format"], str(facts["tuning._target_"])
    if asked == "auto" or target not in _HAS_ADAPTERS:
        return None
    if _HAS_ADAPTERS[target] and asked == "huggingface":
        return "export.format=huggingface: the run trains adapters. Try: export.format=merged, or peft"
    if not _HAS_ADAPTERS[target] and asked in ("merged", "peft"):
        return f"export.format={asked}: the run trains no adapters. Try: export.format=huggingface"
    return None


@rule(("export.enabled",), "how to export with export.enabled=false", "nothing is exported")
def export_unused(facts: Facts) -> str | None:
    given = facts.gave("export.at", "export.dtype", "export.format")
    if facts["export.enabled"] or given is None or facts.sweep:  # a sweep's jobs are exported after it, by its word
        return None
    return f"{given}={facts[given]} has no effect with export=false. Try: export=true"


_KEYS = ("sweep.only_failed", "sweep.fail_fast", "sweep.trials", "sweep.seed")


@rule(_KEYS, "keys of a sweep without -m", "one run is launched")
def sweep_unused(facts: Facts) -> str | None:
    key, word = facts.gave(*_KEYS), facts.choices.get("sweep", "grid")
    if facts.sweep or (key is None and word == "grid") or (key and facts[key] is None):  # no key of this word
        return None
    asked = f"{key}={facts[key]}" if key else f"sweep={word}"
    return f"{asked} has no effect without -m, which makes a sweep. Try: -m, with KEY=A,B"


@rule(("launcher.jobs_at_once",), "launcher.jobs_at_once without -m", "one run is launched")
def jobs_at_once_unused(facts: Facts) -> str | None:
    if facts.sweep or facts.gave("launcher.jobs_at_once") is None or facts["launcher.jobs_at_once"] is None:
        return None
    asked = facts["launcher.jobs_at_once"]
    return f"launcher.jobs_at_once={asked} has no effect without -m, which makes a sweep. Try: -m, with KEY=A,B"


@rule(
    ("sweep.trials", "data.eval", "eval.at_ends", "eval.every_steps"),
    "a search without an evaluation",
    "it looks for the best eval.metric",
)
def objective(facts: Facts) -> str | None:
    if not facts.sweep or not facts["sweep.trials"]:
        return None
    if facts["data.eval"] is None:
        return f"data.eval=null: sweep={facts.choices.get('sweep')} looks for the best held-out metric. Try: 0.05"
    if not facts["eval.at_ends"] and facts["eval.every_steps"] is None:
        return (
            f"eval.at_ends=false and eval.every_steps=null: sweep={facts.choices.get('sweep')} looks for the best "
            "held-out metric. Try: eval.at_ends=true"
        )
    return None


_WORLD = ("launcher.nodes", "launcher.processes_per_node", "launcher.gpus_per_node")


@rule(
    ("launcher.nodes", "launcher.rendezvous"),
    "launcher=local with several machines and no launcher.rendezvous, with a range of them, or the other way round",
    "the same command, typed on each of them, meets at that address; launcher=slurm is for clusters",
)
def nodes_here(facts: Facts) -> str | None:
    nodes, place = facts["launcher.nodes"], facts["launcher.rendezvous"]
    if (
        facts.choices.get("launcher") != "local"
        or (nodes == 1 and not place)
        or (place and isinstance(nodes, int) and nodes > 1)
    ):
        return None
    return (
        f"launcher.nodes={nodes} launcher.rendezvous={place or 'null'}: launcher=local is this machine, or several "
        "that meet. Try: launcher.nodes=2 launcher.rendezvous=HOST:29500, or launcher=slurm"
    )


@rule(
    ("launcher.restarts", "launcher.rendezvous"),
    "launcher.restarts with launcher.rendezvous",
    "machines without a scheduler are not restarted",
)
def restarts_of_machines(facts: Facts) -> str | None:
    restarts = facts["launcher.restarts"]
    if not restarts or not facts["launcher.rendezvous"]:
        return None
    return (
        f"launcher.restarts={restarts} has no effect with launcher.rendezvous: machines without a scheduler are not "
        "restarted. Try: launcher.restarts=0, or launcher=slurm"
    )


@rule(
    ("launcher.environment", "launcher.modules", "launcher.container_image", "launcher.container_mounts"),
    "modules or a container that launcher.environment does not use, or lacks",
    "the job would run in something else than was meant",
)
def environment_unused(facts: Facts) -> str | None:
    kind = facts["launcher.environment"]
    words = {"modules": "module", "container_image": "container", "container_mounts": "container"}
    for key, other in words.items():
        if facts[f"launcher.{key}"] and kind != other:
            set_to = f"launcher.{key}={facts[f'launcher.{key}']}"
            return f"{set_to} has no effect with launcher.environment={kind}. Try: launcher.environment={other}"
    if kind == "container" and not facts["launcher.container_image"]:
        needed = "launcher.container_image"
        return f"launcher.environment=container needs {needed}. Try: {needed}=IMAGE.sqsh"
    return None


@rule(
    _WORLD,
    "more processes than accelerators with launcher=local",
    "two processes on one device share its memory; without any accelerator every number is fine",
)
def processes_here(facts: Facts) -> str | None:
    asked, found = facts.processes_per_node, num_accelerators()
    if facts.choices.get("launcher") != "local" or not found or asked <= found:
        return None
    return f"launcher.processes_per_node={asked}: this machine has {found} accelerators. Try: {found}"


@rule(
    ("launcher.stage_dir", "launcher.stage"),
    "launcher.stage_dir with launcher.stage=none",
    "nothing is copied",
)
def stage_dir_unused(facts: Facts) -> str | None:
    folder = facts["launcher.stage_dir"]
    if folder is None or facts["launcher.stage"] != "none":
        return None
    return f"launcher.stage_dir={folder} has no effect with launcher.stage=none. Try: launcher.stage=node_local"


@rule(
    ("strategy.shard_size", *_WORLD),
    "hsdp with groups that do not divide the processes",
    "every group holds one whole copy",
)
def shard_size(facts: Facts) -> str | None:
    if facts["strategy.layout"] != "hsdp":
        return None
    size = facts["strategy.shard_size"] or facts.processes_per_node
    if facts.world % size == 0:
        return None
    near = min((n for n in range(1, facts.world + 1) if facts.world % n == 0), key=lambda n: (abs(n - size), n))
    return f"strategy.shard_size={size} does not divide the {facts.world} processes of the run. Try: {near}"


@rule(
    ("strategy.shard_size", "strategy.layout"),
    "strategy.shard_size with another layout than hsdp",
    "ddp has groups of 1, fsdp one group",
)
def shard_size_unused(facts: Facts) -> str | None:
    size, layout = facts["strategy.shard_size"], facts["strategy.layout"]
    if size is None or layout == "hsdp":
        return None
    return f"strategy.shard_size={size} has no effect with layout={layout}. Try: strategy=hsdp"


@rule(
    ("train.compile", "strategy.stage"),
    "train.compile=true with ZeRO-3",
    "DeepSpeed gathers weights inside a layer, which breaks its graph",
)
def compiled_zero3(facts: Facts) -> str | None:
    if not facts["train.compile"] or facts["strategy.stage"] != 3:
        return None
    return "train.compile=true: a layer of ZeRO-3 is no single graph. Try: strategy=fsdp"


@rule(
    ("strategy.persist_parameters", "strategy.stage"),
    "strategy.persist_parameters below stage 3",
    "parameters are whole there",
)
def persist_unused(facts: Facts) -> str | None:
    size, stage = facts["strategy.persist_parameters"], facts["strategy.stage"]
    if not size or stage == 3:
        return None
    return f"strategy.persist_parameters={size} has no effect at stage {stage}. Try: 0, or strategy=zero3"


# Of a hosted model OpenAI decides everything about machines, weights and the step.
_HOSTED_TAKES = (
    "name", "runs_dir", "cache_dir", "seed", "trust", "tracker", "launcher", "train.epochs", "train.global_batch_size",
    "data.train", "data.eval", "data.split", "data.eval_split", "data.subset", "data.revision", "data.split_seed",
    "data.format", "data.fields", "data.ignore_fields", "data.prompt_template", "data.max_bad_fraction",
)  # fmt: skip
_HOSTED_KEYS = (
    "model",
    "learning_rate_multiplier",
    "suffix",
    "price",
    "eval_rows",
    "poll_seconds",
    "wait",
    "grace_seconds",
)
_HOSTED_WORDS = {  # group -> its default, which alone leaves open what OpenAI decides
    "model": "smollm2_135m",
    "clean": "none",
    "strategy": "ddp",
    "optimizer": "adamw",
    "schedule": "cosine",
    "loss": "cross_entropy",
    "tuning": "full",
    "eval": "held_out",
}


@rule(
    ("launcher._target_",),
    "launcher=openai with settings of the model, the strategy, the optimizer or of how a step is computed",
    "OpenAI decides them",
)
def hosted_unused(facts: Facts) -> str | None:
    if facts.choices.get("launcher") != "openai":
        return None
    words = [
        f"{group}={facts.choices[group]}" for group, word in _HOSTED_WORDS.items() if facts.choices.get(group) != word
    ]
    keys = [key for key in sorted(facts.given) if key != "launcher._target_" and not _is_taken(key)]
    if not words and not keys:
        return None
    asked = ", ".join([*words, *(f"{key}={facts[key]}" for key in keys)])
    plural = "have" if len(words) + len(keys) > 1 else "has"
    return f"{asked} {plural} no effect with launcher=openai: OpenAI decides it. Try: launcher=openai without"


def _is_taken(key: str) -> bool:
    if covers(["launcher"], key):
        return key.partition(".")[2] in _HOSTED_KEYS
    return covers(_HOSTED_TAKES, key)


@rule(("launcher._target_",), "-m with launcher=openai", "each job costs money, and is launched by itself")
def hosted_sweep(facts: Facts) -> str | None:
    if facts.choices.get("launcher") != "openai" or not facts.sweep:
        return None
    return "launcher=openai trains one run at a time, and -m makes a sweep. Try: a launch for each"


@rule(
    ("train.epochs", "launcher._target_"),
    "launcher=openai with a part of an epoch",
    "OpenAI takes whole ones",
)
def hosted_epochs(facts: Facts) -> str | None:
    epochs = facts["train.epochs"]
    if facts.choices.get("launcher") != "openai" or epochs is None or epochs == int(epochs) > 0:
        return None
    return f"train.epochs={epochs}: OpenAI trains whole epochs. Try: train.epochs={max(1, round(epochs))}"
