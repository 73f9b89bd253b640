"""Which attention kernel a run computes with on this machine, chosen by its frozen config, its rows and its model."""

from pathlib import Path
from typing import Any

from distft.data.shards import Rows
from distft.models.attention.choose import Attention, Documents, Machine, Traits, in_force
from distft.models.skeleton import architecture
from distft.run import Plan
from distft.runtime.precision import compute_dtype
from distft.runtime.process_group import World

Values = dict[str, Any]


def with_attention(config: Values, plan: Plan, world: World) -> tuple[Values, Attention]:
    """Returns the config with the name of the kernel that is in force here, and how it was chosen."""
    rows = Rows(plan.rows_dir, "train", config["data"]["shards"])
    attention = in_force(
        config["model"]["attention"],
        Machine.of(world.device, compute_dtype(config["train"]["precision"], world.device)),
        Documents.of(rows.lengths, plan.micro_batch_size, plan.micro_batch_tokens),
        Traits.of(model_config(config, plan)),
        compiled=config["train"]["compile"],
    )
    return config | {"model": config["model"] | {"attention": attention.in_force}}, attention


def model_config(config: Values, plan: Plan) -> Any:
    """Returns transformers' config of the model, from its folder or, for a random instance, from the run's config."""
    settings = config["model"]
    model_dir = Path(plan.model_dir) if plan.model_dir else None
    return architecture(model_dir, settings["architecture"] | settings["tiny_architecture"])
