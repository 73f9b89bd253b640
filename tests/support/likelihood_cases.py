"""Scores the same texts under every strategy, and writes their log-likelihoods to OUT, by strategy."""

import json
import sys
from typing import Any

import torch

from distft.generate.decode import decoding
from distft.generate.likelihood import score_share
from distft.generate.scored import Continuation
from distft.runtime.process_group import World, process_group, texts_of_all
from tests.support.generate_cases import MODEL, STRATEGIES, ready


def texts(vocab: int = 256, count: int = 13) -> list[Continuation]:
    """Returns texts of unequal lengths; the last one has one token to score."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for index in range(count):
        length = 4 + 5 * index % 23
        ids = torch.randint(vocab, (length,), generator=generator).tolist()
        found.append(Continuation(index, ids, length - 1 if index == count - 1 else 1 + index % 3))
    return found


def scores(name: str, strategy: str, world: World) -> list[list[Any]]:
    """Returns [index, log-likelihood, tokens, greedy] of all processes' texts."""
    with decoding(ready(name, strategy, world), world.device) as live:
        mine = [[s.index, s.log_likelihood, s.tokens, s.greedy] for s in score_share(live, texts(), world)]
    return sorted(each for text in texts_of_all(json.dumps(mine), world) for each in json.loads(text))


if __name__ == "__main__":
    with process_group() as group:
        found = {strategy: scores(MODEL, strategy, group) for strategy in STRATEGIES}
        if group.is_first:
            with open(sys.argv[1], "w") as file:
                json.dump(found, file)
