"""Rules of the optimizer step: batch size, optimizer and schedule."""

from distft.config.rules.contract import Facts, rule
from distft.tasks import load_task

_WORLD = ("launcher.nodes", "launcher.processes_per_node", "launcher.gpus_per_node")


@rule(
    ("train.global_batch_size", "train.micro_batch_size", *_WORLD),
    "a global batch that is no whole number of micro-batches on every process",
    "accumulation = global / (micro x processes)",
)
def global_batch(facts: Facts) -> str | None:
    size, micro, world = facts["train.global_batch_size"], facts["train.micro_batch_size"], facts.world
    micro = 1 if micro == "auto" else micro  # a divisor is chosen
    unit = micro * world
    if size is None or facts["train.global_batch_tokens"] or facts["data.packing"] or size % unit == 0:
        return None
    below, above = size // unit * unit, -(-size // unit) * unit
    processes = f"{world} process{'es' if world > 1 else ''}"
    return (
        f"train.global_batch_size={size} is not a multiple of {unit} "
        f"(= {processes} x train.micro_batch_size={micro}). Try: {f'{below} or {above}' if below else above}"
    )


@rule(
    ("train.global_batch_size", "train.global_batch_tokens"),
    "rows and tokens per step, both given",
    "one of them says how big a step is",
)
def two_batch_sizes(facts: Facts) -> str | None:
    size, tokens = facts["train.global_batch_size"], facts["train.global_batch_tokens"]
    if tokens is None or size is None or not facts.gave("train.global_batch_size"):
        return None
    return (
        f"train.global_batch_tokens={tokens} and train.global_batch_size={size} both say how big a step is. "
        "Try: train.global_batch_size=null"
    )


@rule(
    ("train.global_batch_size", "train.global_batch_tokens"),
    "neither rows nor tokens per step",
    "a step has to have a size",
)
def no_batch_size(facts: Facts) -> str | None:
    if facts["train.global_batch_size"] or facts["train.global_batch_tokens"]:
        return None
    return "train.global_batch_size=null needs train.global_batch_tokens. Try: train.global_batch_size=32"


@rule(
    ("data.packing", "train.micro_batch_size", "train.micro_batch_tokens"),
    "train.micro_batch_size with data.packing=true or train.micro_batch_tokens",
    "either rows or tokens say how large a forward is; train.micro_batch_size alone turns packing off",
)
def rows_of_packed(facts: Facts) -> str | None:
    if not facts["data.packing"] or not facts.gave("train.micro_batch_size"):
        return None
    size, tokens = facts["train.micro_batch_size"], facts["train.micro_batch_tokens"]
    other = f"train.micro_batch_tokens={tokens}" if tokens else "data.packing=true"
    return (
        f"train.micro_batch_size={size} has no effect with {other}. Try: train.micro_batch_size={size} alone, "
        f"for rows per forward, or train.micro_batch_tokens={tokens or facts['data.max_length']} alone, for tokens"
    )


@rule(
    ("data.packing", "train.micro_batch_tokens", "data.max_length", "model.task"),
    "train.micro_batch_tokens with data.packing=false, or below data.max_length, of pairs twice that",
    "a row is never cut to fit",
)
def micro_tokens(facts: Facts) -> str | None:
    tokens, longest = facts["train.micro_batch_tokens"], facts["data.max_length"]
    is_pair = load_task(facts["model.task"]).unit == "pair"
    longest *= 2 if is_pair else 1
    if tokens is None:
        return None
    if not facts["data.packing"]:
        return f"train.micro_batch_tokens={tokens} has no effect with data.packing=false. Try: data.packing=true"
    if tokens != "auto" and tokens < longest:
        of = f"twice data.max_length={facts['data.max_length']}" if is_pair else f"data.max_length={longest}"
        return f"train.micro_batch_tokens={tokens} is less than a row may have, {of}. Try: {longest}"
    return None


# State of these is one number per weight and step, so a shard is updated as the whole would be.
ELEMENTWISE = ("AdamW", "Adam", "SGD", "RAdam", "NAdam", "RMSprop", "Adamax", "Adadelta", "Adagrad", "ASGD")
OTHER_OPTIMIZERS = ("Rprop", "Adafactor", "Muon", "LBFGS", "SparseAdam")  # of torch


@rule(
    ("schedule.warmup_steps", "schedule.decay_steps"),
    "half a step in schedule.warmup_steps or schedule.decay_steps",
    "from 1 on they are whole optimizer steps, below 1 a share of the run's",
)
def broken_step(facts: Facts) -> str | None:
    for key in ("schedule.warmup_steps", "schedule.decay_steps"):
        steps = facts[key]
        if steps is not None and steps > 1 and steps != int(steps):
            return (
                f"{key}={steps} is neither a whole number of steps nor below 1, a share of the run's. Try: {int(steps)}"
            )
    return None


@rule(
    ("schedule.warmup_steps", "train.max_steps"),
    "a warm-up as long as the run",
    "the learning rate would never be reached",
)
def warmup(facts: Facts) -> str | None:
    warmup, steps = facts["schedule.warmup_steps"], facts["train.max_steps"]
    if not warmup or not steps or warmup < steps:
        return None
    instead = "schedule.warmup_steps=0.1" if steps > 1 else "schedule.warmup_steps=0"
    return f"schedule.warmup_steps={warmup} leaves none of the run's {steps} steps for training. Try: {instead}"


@rule(
    ("schedule.decay_steps", "schedule.warmup_steps", "train.max_steps"),
    "wsd: warm-up and decay longer than the run",
    "they must not overlap",
)
def decay(facts: Facts) -> str | None:
    decay, warmup, steps = facts["schedule.decay_steps"], facts["schedule.warmup_steps"], facts["train.max_steps"]
    if not decay or not facts.gave("schedule.decay_steps"):  # the default gives way to a long warm-up
        return None
    if decay < 1 and warmup < 1:
        steps = 1  # both are shares of whatever it is
    if not steps or (warmup >= 1 and warmup >= steps):
        return None
    left = steps - (warmup * steps if warmup < 1 else warmup)
    if (decay * steps if decay < 1 else decay) <= left + 1e-6:
        return None
    left = left if steps == 1 else int(left)
    return (
        f"schedule.decay_steps={decay} and schedule.warmup_steps={warmup} are more than all steps of the run. "
        f"Try: schedule.decay_steps={left:.6g}"
    )


@rule(
    ("optimizer.nesterov", "optimizer.momentum"),
    "optimizer.nesterov=true without momentum",
    "torch refuses it",
)
def nesterov(facts: Facts) -> str | None:
    if not facts["optimizer.nesterov"] or facts["optimizer.momentum"]:
        return None
    return f"optimizer.nesterov=true needs momentum, and optimizer.momentum={facts['optimizer.momentum']}. Try: 0.9"


@rule(
    ("eval.weights", "train.ema_decay"),
    "eval.weights=ema without train.ema_decay",
    "there is no moving average to evaluate",
)
def ema_unused(facts: Facts) -> str | None:
    if facts["eval.weights"] != "ema" or facts["train.ema_decay"] is not None:
        return None
    return "eval.weights=ema needs the moving average of train.ema_decay, which is null. Try: train.ema_decay=0.999"


@rule(
    ("export.at", "export.average_last", "checkpoint.keep"),
    "export.average_last without export.at=average, or beyond checkpoint.keep",
    "the mean is of checkpoints that are kept",
)
def averaged(facts: Facts) -> str | None:
    last, keep = facts["export.average_last"], facts["checkpoint.keep"]
    if facts["export.at"] != "average":
        given = facts.gave("export.average_last")
        return given and f"{given}={last} has no effect with export.at={facts['export.at']}. Try: export.at=average"
    if last <= keep:
        return None
    return (
        f"export.average_last={last} checkpoints are averaged, and checkpoint.keep={keep} stay. "
        f"Try: checkpoint.keep={last}"
    )


@rule(
    ("optimizer.betas", "optimizer._target_"),
    "optimizer.betas of an optimizer of torch or distft outside [0, 1)",
    "averages would diverge",
)
def betas(facts: Facts) -> str | None:
    betas, is_known = facts["optimizer.betas"], str(facts["optimizer._target_"]).startswith(("torch.", "distft."))
    if (
        betas is None
        or not is_known
        or (len(betas) == 2 and all(isinstance(b, int | float) and 0 <= b < 1 for b in betas))
    ):
        return None
    return f"optimizer.betas={betas} are not two numbers of at least 0 and below 1. Try: [0.9,0.999]"


@rule(
    ("optimizer._target_",),
    "something of torch that is no optimizer, or one that is not elementwise (Adafactor, Muon, LBFGS, SparseAdam ...)",
    "on shards it would train otherwise than on the whole",
)
def elementwise(facts: Facts) -> str | None:
    target = str(facts["optimizer._target_"])
    name = target.rpartition(".")[2]
    if not target.startswith("torch.") or (target.startswith("torch.optim.") and name in ELEMENTWISE):
        return None
    offered = f"Try: torch.optim. and one of {', '.join(ELEMENTWISE)}"
    if name not in OTHER_OPTIMIZERS:
        return f"optimizer._target_={target} is not an optimizer. {offered}"
    return (
        f"optimizer._target_={target} looks at whole matrices or needs a closure, so it would train otherwise on "
        f"shards. {offered}"
    )


@rule(
    ("optimizer._target_", "strategy.stage"),
    "torch.optim.Adagrad with ZeRO",
    "DeepSpeed makes it anew, with one group of weights, and would decay vectors too",
)
def remade_adagrad(facts: Facts) -> str | None:
    target, stage = str(facts["optimizer._target_"]), facts["strategy.stage"]
    if stage is None or target.rpartition(".")[2] != "Adagrad" or not target.startswith("torch.optim."):
        return None
    return (
        f"optimizer._target_={target} with strategy.stage={stage}: DeepSpeed makes it anew without its groups of "
        "weights. Try: strategy=ddp, fsdp or hsdp"
    )
