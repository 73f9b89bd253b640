"""Imports the modules of ranks once, in the process that `tests.support.ranks` forks them from.

Trap: threads do not survive a fork, so nothing is computed here.
"""

import os

import torch

from distft.runtime.process import uncollected

if torch.accelerator.current_accelerator() is None:
    os.environ["DS_ACCELERATOR"] = "cpu"  # as distft.strategies.zero does; read once, while deepspeed is imported

with uncollected():
    import deepspeed  # noqa: F401
    import torch.distributed.fsdp
    import transformers.models  # noqa: F401

    from distft.paths import conf_dir
    from tests.support.train_cases import instantiate_strategy, tiny_model

    for path in (conf_dir() / "strategy").glob("*.yaml"):
        instantiate_strategy(path.stem)
    for path in (conf_dir() / "model").glob("*.yaml"):
        tiny_model(path.stem)  # without memory
