"""Benchmarks by lm-evaluation-harness, in process, on any number of ranks and any strategy.

Rank 0 runs lm-eval. What it needs of the model it sends to all ranks, each of which does its share, since a forward of
a sharded model is a collective. Log-likelihoods are sums of the same forward that measures held-out rows.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distft.data.shards import Row
from distft.evaluate.item_sums import MemoryRows, item_sums
from distft.runtime.process_group import World, from_first, texts_of_all
from distft.strategies.engine import Engine

Answers = Callable[[Sequence[Mapping[str, Any]]], Mapping[int, str]]  # continuations -> this rank's texts by number
_DEFAULT_POSITIONS = 2048
_END = "end"


@dataclass(frozen=True)
class Ranks:
    """All ranks of a job, driven by rank 0. answers: makes this rank's share of texts."""

    engine: Engine
    world: World
    limits: tuple[int | None, int | None]  # rows, or else tokens, of a forward
    max_length: int
    answers: Answers

    def score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Returns the log-likelihood of each continuation after its context, and whether it is the greedy choice."""
        return [(each[0], bool(each[1])) for each in self._call("score", list(pairs))]

    def generate(self, continuations: Sequence[Any]) -> list[str]:
        """Returns the text of each continuation. continuations: dataclasses of `distft.compat.lm_eval`."""
        return self._call("generate", [vars(each) for each in continuations])

    def serve(self) -> None:
        """Does this rank's share of what rank 0 sends, until it ends."""
        while True:
            kind, payload = json.loads(from_first("", self.world))
            if kind == _END:
                return
            self._share(kind, payload)

    def end(self) -> None:
        from_first(json.dumps([_END, []]), self.world)

    def _call(self, kind: str, payload: list[Any]) -> list[Any]:
        from_first(json.dumps([kind, payload]), self.world)
        found = self._share(kind, payload)
        assert sorted(found) == list(range(len(payload))), "each request has one answer"
        return [found[number] for number in range(len(payload))]

    def _share(self, kind: str, payload: list[Any]) -> dict[int, Any]:
        """Returns the results of all ranks by number of the request."""
        own = self._scored(payload) if kind == "score" else self.answers(payload)
        texts = texts_of_all(json.dumps(list(own.items())), self.world)
        return {number: result for text in texts for number, result in json.loads(text)}

    def _scored(self, pairs: list[Any]) -> dict[int, tuple[float, bool]]:
        if not pairs:
            return {}
        rows = MemoryRows([row_of(context, continuation, self.max_length) for context, continuation in pairs])
        return {
            int(line["row"]): (-line["loss"], line["correct"] == line["targets"])
            for line in item_sums(self.engine, rows, self.limits, self.world)
        }


def row_of(context: Sequence[int], continuation: Sequence[int], max_length: int) -> Row:
    """Returns a row whose targets are the continuation, cut on the left to `max_length` tokens."""
    input_ids = np.array([*context, *continuation], dtype=np.int32)[-max_length:]
    trained = np.arange(len(input_ids)) >= len(input_ids) - len(continuation)
    return Row(input_ids, trained)


def positions_of(engine: Engine) -> int:
    """Returns how many tokens the model takes."""
    config: Any = engine.objective.model.config
    text = config.get_text_config()
    found = (getattr(text, name, None) for name in ("max_position_embeddings", "n_positions"))
    return next((int(each) for each in found if each), _DEFAULT_POSITIONS)
