"""Processes, and how the model is laid out over them."""

from distft.config.machines import num_accelerators
from distft.config.rules.contract import Facts, rule

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
