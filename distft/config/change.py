"""With what a run may go on: any layout, machine or tracker, and what changes its meaning where that is allowed."""

from collections.abc import Mapping, Sequence
from typing import Any

from distft.config.freeze import changed_keys, difference
from distft.config.tree import covers, leaves

# Keys and groups of keys that decide where and how fast a run trains, and what is seen of it; not what it learns.
FREE = (
    "name", "runs_dir", "cache_dir", "trust", "export", "strategy", "launcher", "tracker", "sweep", "checkpoint",
    "train.micro_batch_size", "train.micro_batch_tokens", "train.activation_checkpointing", "train.compile",
    "train.deterministic", "train.profile",
    "train.on_non_finite", "train.max_non_finite", "train.check_replicas_every",
    "eval.micro_batch_size", "data.packing", "data.max_bad_fraction", "data.max_truncated_fraction",
    "data.max_untrained_fraction",
)  # fmt: skip


def meanings(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns the keys of other value that change what the run learns."""
    return [key for key in changed_keys(old, new) if not covers(FREE, key)]


def refusal(old: Mapping[str, Any], new: Mapping[str, Any], what: str) -> str | None:
    """Returns why a run cannot go on from `old` to `new`, with a line for each difference; None when it can.

    what: the run, in words.
    """
    allowed = new["checkpoint"]["allow_change"]
    keys = [key for key in meanings(old, new) if not covers(allowed, key)]
    if not keys:
        return None
    there = {key for key, _ in leaves(new)}
    offered = [key if key in there else key.partition(".")[0] for key in keys]
    lines = [line for line in difference(old, new) if line.partition(":")[0] in keys]
    first = f"{what} was made with another config. Nearest: another name, or {allowing(allowed, offered)}"
    return "\n    ".join([first, *lines])


def allowing(allowed: Sequence[str], keys: Sequence[str]) -> str:
    """Returns the override that allows `keys` too."""
    return f"checkpoint.allow_change=[{','.join(dict.fromkeys([*allowed, *keys]))}]"
