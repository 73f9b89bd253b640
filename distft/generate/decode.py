"""Batched decoding with a key-value cache, on all processes of a run.

Prompts are sorted by length and padded on the left. A row leaves its batch as soon as it has ended.

On a sharded model every forward gathers weights from all processes. So all processes make the same number of forwards:
one without prompts left makes forwards of one token until the others are done (transformers' `synced_gpus`).
Each forward is one of the engine. Trap: transformers' `generate` calls parts of a wrapped model from outside, which
FSDP2 refuses.

Training attends inside packed documents without a mask. Padding needs one, so decoding uses transformers' attention.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from distft.compat.transformers import attention_of
from distft.data.batches import Batch
from distft.generate.sampling import Chooser
from distft.models.attention.choose import anywhere
from distft.runtime import heartbeat
from distft.runtime.process_group import World, all_reduce_sum
from distft.strategies.engine import Engine, Sums

Stopped = Literal["eos", "length", "stop"]
StopText = Callable[[Sequence[int]], bool]  # whether the generated tokens contain a stop text
OnToken = Callable[[int, int], None]  # (index of the prompt, token)


@dataclass(frozen=True)
class Prompt:
    """The tokens of one prompt. index: its place in the file, a part of the seed. max_new_tokens: of its answer."""

    index: int
    token_ids: Sequence[int]
    max_new_tokens: int


@dataclass(frozen=True)
class Answer:
    """The generated tokens of one prompt, with the end token where it stopped at one."""

    index: int
    token_ids: list[int]
    stopped: Stopped


@dataclass(frozen=True)
class Rules:
    """How tokens are chosen, and what ends an answer before its length does."""

    choose: Chooser
    ends: frozenset[int]
    stops: StopText = lambda _: False


class LiveModel:
    """The model inside an engine, called for one decoding step at a time."""

    def __init__(self, engine: Engine, device: torch.device) -> None:
        self.engine, self.device = engine, device
        self.model = cast(PreTrainedModel, engine.objective.model)

    def new_cache(self) -> DynamicCache:
        return DynamicCache(config=self.model.config)

    def last_logits(
        self, input_ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        """Returns the logits of the last position, [B, V]; adds the S tokens to the cache.

        input_ids, positions: [B, S]. mask: [B, tokens in the cache + S], 0 for padding.
        """

        def step(model: nn.Module, _: Batch) -> tuple[torch.Tensor, Sums]:
            output = model(
                input_ids=input_ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logits = output.logits[:, -1]
            return logits.new_zeros(()), {"logits": logits}

        heartbeat.enter("evaluation")
        return self.engine.forward(cast(Batch, None), step)[1]["logits"]  # the closure has the inputs

    def idle(self) -> None:
        """Makes a forward of one token: this process's part in the forward of the others."""
        one = torch.zeros(1, 1, dtype=torch.int64, device=self.device)
        self.last_logits(one, one + 1, one, self.new_cache())


@contextmanager
def decoding(engine: Engine, device: torch.device) -> Iterator[LiveModel]:
    """Prepares an engine for decoding and restores it afterwards: evaluation mode, attention with a mask."""
    live = LiveModel(engine, device)
    before = attention_of(live.model)
    engine.train(False)
    live.model.set_attn_implementation(anywhere(live.model.config))
    replaced = [(block, vars(block).pop("forward", None)) for block in engine.objective.blocks]  # compiled for training
    try:
        with torch.no_grad():
            yield live
    finally:
        for block, forward in replaced:
            if forward is not None:
                block.forward = forward
        live.model.set_attn_implementation(before)
        engine.train(True)


class DecodingBatch:
    """Prompts that are answered together: a prefill, then one token of each per forward."""

    def __init__(self, prompts: Sequence[Prompt], live: LiveModel, rules: Rules) -> None:
        self.prompts, self.live, self.rules = list(prompts), live, rules
        self.generated: list[list[int]] = [[] for _ in prompts]
        self.cache = live.new_cache()
        width = max(len(prompt.token_ids) for prompt in prompts)
        padding = [width - len(prompt.token_ids) for prompt in prompts]
        rows = [[0] * pad + list(prompt.token_ids) for pad, prompt in zip(padding, prompts, strict=True)]
        self.next_ids = torch.tensor(rows, device=live.device)  # [B, S]
        begins = torch.tensor(padding, device=live.device)[:, None]
        places = torch.arange(width, device=live.device)[None]
        self.mask = (places >= begins).long()  # [B, S]
        self.positions = (places - begins).clamp(min=0)  # [B, S]

    @property
    def is_done(self) -> bool:
        return not self.prompts

    def advance(self, on_token: OnToken | None = None) -> list[Answer]:
        """Makes one forward; returns the answers that it ended."""
        logits = self.live.last_logits(self.next_ids, self.mask, self.positions, self.cache)
        histories = [[*prompt.token_ids, *tokens] for prompt, tokens in zip(self.prompts, self.generated, strict=True)]
        at = [(prompt.index, len(tokens)) for prompt, tokens in zip(self.prompts, self.generated, strict=True)]
        chosen = self.rules.choose(logits, histories, at)
        ended: list[Answer] = []
        kept: list[int] = []
        for row, (prompt, tokens, token) in enumerate(zip(self.prompts, self.generated, chosen, strict=True)):
            tokens.append(token)
            if on_token:
                on_token(prompt.index, token)
            stopped = self._stopped(prompt, tokens)
            if stopped:
                ended.append(Answer(prompt.index, tokens, stopped))
            else:
                kept.append(row)
        self._keep(kept)
        return ended

    def _stopped(self, prompt: Prompt, tokens: list[int]) -> Stopped | None:
        if tokens[-1] in self.rules.ends:
            return "eos"
        if self.rules.stops(tokens):
            return "stop"
        return "length" if len(tokens) >= prompt.max_new_tokens else None

    def _keep(self, rows: list[int]) -> None:
        """Drops the rows that have ended, and moves the others one token on."""
        if len(rows) < len(self.prompts) and rows:
            index = torch.tensor(rows, device=self.live.device)
            self.cache.batch_select_indices(index)
            self.mask, self.positions = self.mask[index], self.positions[index]
        self.prompts = [self.prompts[row] for row in rows]
        self.generated = [self.generated[row] for row in rows]
        if rows:
            last = [[tokens[-1]] for tokens in self.generated]
            self.next_ids = torch.tensor(last, device=self.live.device)
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(rows), 1)], 1)
            self.positions = self.positions[:, -1:] + 1


def share(prompts: Iterable[Prompt], batch_size: int, world: World) -> list[list[Prompt]]:
    """Returns this process's batches: prompts of similar length together, the longest first."""
    by_length = sorted(prompts, key=lambda prompt: (-len(prompt.token_ids), prompt.index))
    batches = [by_length[at : at + batch_size] for at in range(0, len(by_length), batch_size)]
    return batches[world.rank :: world.size]


def decode(
    live: LiveModel, batches: Iterable[Sequence[Prompt]], rules: Rules, world: World, on_token: OnToken | None = None
) -> Iterator[Answer]:
    """Yields the answers to this process's batches as they end; every process calls it, and iterates to the end."""
    waiting, batch = iter(batches), None
    while True:
        if batch is None or batch.is_done:
            following = next(waiting, None)
            batch = None if following is None else DecodingBatch(following, live, rules)
        busy = batch is not None
        if world.size > 1:
            busy = bool(all_reduce_sum(torch.tensor(float(busy), device=world.device)))
        if not busy:
            return
        if batch is None:
            live.idle()
        else:
            yield from batch.advance(on_token)
