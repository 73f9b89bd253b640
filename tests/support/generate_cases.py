"""Answers prompts on one group of real processes by several strategies: `python -m tests.support.generate_cases OUT`.

The prompts have unequal lengths, and there are fewer batches than processes in the second set.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

import torch

from distft.generate.decode import Answer, Prompt, Rules, decode, decoding, share
from distft.generate.sampling import Chooser, Sampling
from distft.models.init import FreshWeights
from distft.runtime.process_group import World, process_group, texts_of_all
from distft.tensors.streaming import fill
from tests.support.train_cases import make_engine, tiny_model

MODEL = "smollm2_135m"  # tied, so the head is gathered with the embedding
STRATEGIES = ("fsdp", "zero3")
END, NEW_TOKENS = 7, 16
SAMPLED = Sampling(temperature=1.0, top_p=0.9, top_k=50, seed=3)
LENGTHS = (5, 30, 1, 17, 40, 3, 22)


def prompts(count: int = len(LENGTHS)) -> list[Prompt]:
    """Returns prompts of random tokens; the second one asks for a short answer."""
    rng = random.Random(0)
    tokens = [[rng.randrange(10, 500) for _ in range(length)] for length in LENGTHS]
    return [Prompt(i, ids, 4 if i == 1 else NEW_TOKENS) for i, ids in enumerate(tokens[:count])]


def ready(name: str, strategy: str, world: World, **case: Any) -> Any:
    """Returns an engine of a tiny model with the weights of `tests.support.reference.dense`."""
    engine = make_engine({"model": name, "strategy": strategy, **case}, world)
    fill(list(engine.pieces()), FreshWeights(tiny_model(name), 0))
    engine.refresh()
    return engine


def answer(engine: Any, world: World, asked: list[Prompt], sampling: Sampling, batch_size: int = 2) -> list[Answer]:
    """Returns this process's answers."""
    rules = Rules(Chooser(sampling, {}, [END]), frozenset([END]))
    with decoding(engine, world.device) as live:
        return list(decode(live, share(asked, batch_size, world), rules, world))


def main() -> None:
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with process_group() as world:
        for strategy in STRATEGIES:
            engine = ready(MODEL, strategy, world)
            for name, asked, sampling in (
                ("greedy", prompts(), Sampling()),
                ("sampled", prompts(), SAMPLED),
                ("few", prompts(1), Sampling()),
            ):
                own = [[each.index, each.token_ids, each.stopped] for each in answer(engine, world, asked, sampling)]
                found[f"{strategy} {name}"] = [json.loads(text) for text in texts_of_all(json.dumps(own), world)]
        if world.is_first:
            Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
