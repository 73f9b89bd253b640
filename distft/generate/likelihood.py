"""Log-likelihood of given continuations, on all processes of a job: how probable a model finds a text after another.

Texts of similar length are padded on the right and scored together. The batches do not depend on the number of
processes, so neither do the numbers. Each process makes the same number of forwards, as sharded weights demand.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import nn

from distft.data.batches import Batch
from distft.generate.decode import LiveModel
from distft.generate.scored import Continuation, Likelihood
from distft.losses.cross_entropy import logit_factor
from distft.runtime import heartbeat
from distft.runtime.process_group import World
from distft.strategies.engine import Sums

LOGIT_BYTES = 2**27  # of the fp32 logits of a batch, at most, unless one text alone has more
BATCH_TOKENS = 4096  # of a batch with its padding, at most, unless one text alone has more


def make_batches(texts: Iterable[Continuation], vocabulary: int) -> list[list[Continuation]]:
    """Returns texts of similar length together, the longest first; the same for every number of processes."""
    by_length = sorted(texts, key=lambda text: (-len(text.token_ids), text.index))
    most_targets = max(1, LOGIT_BYTES // (4 * vocabulary))
    batches: list[list[Continuation]] = []
    targets = 0
    for text in by_length:
        fits = batches and (len(batches[-1]) + 1) * len(batches[-1][0].token_ids) <= BATCH_TOKENS
        if fits and targets + text.num_targets <= most_targets:
            batches[-1].append(text)
            targets += text.num_targets
        else:
            batches.append([text])
            targets = text.num_targets
    return batches


def score_share(live: LiveModel, texts: Sequence[Continuation], world: World) -> Iterator[Likelihood]:
    """Yields the scores of this process's share of the texts; every process calls it, and iterates to the end."""
    batches = make_batches([text for text in texts if text.num_targets], live.model.config.get_text_config().vocab_size)
    for start in range(0, len(batches), world.size):
        if start + world.rank < len(batches):
            yield from _scored(live, batches[start + world.rank])
        else:
            live.idle()


def _scored(live: LiveModel, batch: Sequence[Continuation]) -> Iterator[Likelihood]:
    width = max(len(text.token_ids) for text in batch)
    lengths = torch.tensor([len(text.token_ids) for text in batch])
    rows = [[*text.token_ids, *[0] * (width - len(text.token_ids))] for text in batch]
    input_ids = torch.tensor(rows, device=live.device)  # [B, S]
    mask = (torch.arange(width)[None] < lengths[:, None]).long().to(live.device)  # [B, S]
    places = [i * width + at - 1 for i, text in enumerate(batch) for at in range(text.begins, len(text.token_ids))]
    targets = torch.tensor([token for text in batch for token in text.token_ids[text.begins :]], device=live.device)
    scores, correct = _targets_scored(live, input_ids, mask, torch.tensor(places, device=live.device), targets)
    counts = [text.num_targets for text in batch]
    for text, values, hits in zip(batch, scores.split(counts), correct.split(counts), strict=True):
        yield Likelihood(text.index, float(values.sum()), len(values), bool(hits.all()))


def _targets_scored(
    live: LiveModel, input_ids: torch.Tensor, mask: torch.Tensor, places: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the log-probability of each target, fp64 [T] on the CPU, and whether it is the argmax.

    input_ids, mask: [B, S]. places: [T], of the token that predicts each target, in B * S.
    """

    def step(model: nn.Module, _: Batch) -> tuple[torch.Tensor, Sums]:
        causal: Any = model
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        hidden = causal.base_model(
            input_ids=input_ids, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state  # [B, S, H]
        chosen = hidden.flatten(0, 1)[places] * logit_factor(causal.config)  # [T, H]
        logits = causal.get_output_embeddings()(chosen).float()  # [T, V]
        if cap := getattr(causal.config.get_text_config(), "final_logit_softcapping", None):
            logits = cap * torch.tanh(logits / cap)
        found = logits.gather(1, targets[:, None])[:, 0].double() - logits.double().logsumexp(-1)
        return found.new_zeros(()), {"scores": found, "correct": logits.argmax(-1) == targets}

    heartbeat.enter("evaluation")
    sums = live.engine.forward(cast(Batch, None), step)[1]  # the closure has the inputs
    return sums["scores"].cpu(), sums["correct"].cpu()
