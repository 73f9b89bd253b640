"""How big a step is."""

from distft.config.rules.contract import Facts, rule

_WORLD = ("launcher.nodes", "launcher.processes_per_node", "launcher.gpus_per_node")


@rule(
    ("train.global_batch_size", "train.micro_batch_size", *_WORLD),
    "a global batch that is no whole number of micro-batches on every process",
    "accumulation = global / (micro x processes)",
)
def global_batch(facts: Facts) -> str | None:
    size, micro, world = facts["train.global_batch_size"], facts["train.micro_batch_size"], facts.world
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
    ("data.packing", "train.micro_batch_tokens", "data.max_length"),
    "train.micro_batch_tokens with data.packing=false, or below data.max_length",
    "a row is never cut to fit",
)
def micro_tokens(facts: Facts) -> str | None:
    tokens, longest = facts["train.micro_batch_tokens"], facts["data.max_length"]
    if tokens is None:
        return None
    if not facts["data.packing"]:
        return f"train.micro_batch_tokens={tokens} has no effect with data.packing=false. Try: data.packing=true"
    if tokens < longest:
        return (
            f"train.micro_batch_tokens={tokens} is less than a row may have, data.max_length={longest}. Try: {longest}"
        )
    return None
