"""The next token: greedy, or drawn by a random number that depends on seed, prompt and position alone.

No generator has a state, so the text of a prompt does not depend on the batch, the process or the prompts before it.

Trap: transformers' penalties read the token history. Padding must not be in it, or the text of a prompt would depend on
the longest prompt of its batch; so each row gets its own history.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    LogitsProcessorList,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from distft.runtime.determinism import seed_for

_BITS = 63  # of seed_for


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. temperature: 0 is greedy. top_k: 0 keeps all tokens; top_p: 1 keeps all."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0


class Chooser:
    """Chooses the next token of each row of a batch."""

    def __init__(self, sampling: Sampling, penalties: Mapping[str, Any], ends: Sequence[int]) -> None:
        """penalties: those settings of `source.PENALTIES` that the model has. ends: ids of the end tokens."""
        self.sampling = sampling
        self.penalties = _penalties(penalties, ends)
        self.warpers = _warpers(sampling)

    def __call__(
        self, logits: torch.Tensor, histories: Sequence[Sequence[int]], rows: Sequence[tuple[int, int]]
    ) -> list[int]:
        """Returns the next token of each row.

        logits: [B, V]. histories: the tokens of each row so far. rows: (index of the prompt, position of the token).
        """
        scores = logits.float()  # [B, V]
        if self.penalties:
            scores = torch.cat(
                [
                    self.penalties(torch.tensor([history], device=scores.device), scores[i : i + 1].clone())  # pyright: ignore[reportArgumentType]
                    for i, history in enumerate(histories)
                ]
            )
        if self.sampling.temperature == 0:
            return scores.argmax(-1).tolist()
        scores = self.warpers(None, scores)  # pyright: ignore[reportArgumentType]  # they read no history
        cumulative = scores.double().softmax(-1).cumsum(-1)  # [B, V]
        drawn = [uniform(self.sampling.seed, *row) for row in rows]
        at = torch.tensor(drawn, dtype=torch.float64, device=scores.device)[:, None] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, at, right=True)[:, 0].clamp(max=scores.shape[1] - 1).tolist()


def uniform(seed: int, prompt: int, position: int) -> float:
    """Returns a number in [0, 1) for one token: a pure function of seed, index of the prompt and position."""
    return (seed_for(seed, "generate", prompt, position) >> (_BITS - 53)) / 2**53


def _warpers(sampling: Sampling) -> LogitsProcessorList:
    """Returns the warpers in the order of transformers' generate."""
    found = LogitsProcessorList()
    if sampling.temperature not in (0, 1):
        found.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k:
        found.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        found.append(TopPLogitsWarper(sampling.top_p))
    return found


def _penalties(values: Mapping[str, Any], ends: Sequence[int]) -> LogitsProcessorList:
    found = LogitsProcessorList()
    if values.get("repetition_penalty", 1.0) != 1.0:
        found.append(RepetitionPenaltyLogitsProcessor(float(values["repetition_penalty"])))
    if values.get("no_repeat_ngram_size"):
        found.append(NoRepeatNGramLogitsProcessor(values["no_repeat_ngram_size"]))
    if values.get("bad_words_ids"):
        found.append(NoBadWordsLogitsProcessor(values["bad_words_ids"], list(ends)))
    if values.get("suppress_tokens"):
        found.append(SuppressTokensLogitsProcessor(values["suppress_tokens"]))
    return found
