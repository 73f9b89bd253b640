"""What the live model says, kept beside a checkpoint so that an export can be held against it: its logits on a few
tokens, and the 20 tokens that it answers with when each is the likeliest.

Trap: all of it comes of whole forwards over rows of one length, so nothing is compiled twice and no cache is needed.
What follows a token in the row does not matter to a causal model.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import pad

from distft.checkpoint.chunks import save_tensors
from distft.data.shards import Row
from distft.runtime.disk import replaced
from distft.tensors.integrity import Damaged

PROBE = "probe.safetensors"
TOKENS = 16
ANSWER = 20  # tokens
PROMPT = 12  # tokens at most: with the answer a row of 32, since a CPU takes 3 s for 21 of them and 135M parameters
PROMPTS = 100  # rows, of which the one with the shortest prompt is taken

Logits = Callable[[torch.Tensor], torch.Tensor]  # of token ids, int64 [1, S] -> [1, S, V]


@dataclass(frozen=True)
class Probe:
    """What the live model says."""

    input_ids: torch.Tensor  # int64 [1, S]
    logits: torch.Tensor  # of these tokens, fp32 [1, S, V]
    prompt: torch.Tensor  # int64 [P]
    answer: torch.Tensor  # int64 [N], each the likeliest after all before it, whether or not it is a stop token
    margins: torch.Tensor  # fp32 [N]: how far it is from the second likeliest, as a share of the largest logit


def probe_tokens(vocab_size: int) -> torch.Tensor:
    """Returns one row of token ids spread over the vocabulary, int64 [1, S]."""
    return torch.linspace(0, vocab_size - 1, TOKENS).long()[None]


def probe_prompt(rows: Iterable[Row]) -> torch.Tensor:
    """Returns what stands before the first trained token of the row where that is shortest, int64 [P].

    At most PROMPT tokens of it, the last ones; at least the first token of a row.
    """
    prompts = [row.input_ids[: max(1, int(np.argmax(row.trained)))] for row in rows]
    return torch.from_numpy(min(prompts, key=len)[-PROMPT:].astype(np.int64))


@torch.no_grad()
def take_probe(logits_of: Logits, vocab_size: int, prompt: torch.Tensor, longest: int | None) -> Probe:
    """Returns what the model says that computes `logits_of`; every process of it calls this with the same prompt.

    longest: tokens that the model has positions for; None: no limit.
    """
    input_ids = probe_tokens(vocab_size)
    prompt = prompt[-max(1, longest - ANSWER) :] if longest else prompt
    count = min(ANSWER, longest - len(prompt)) if longest else ANSWER
    row = pad(input_ids, (0, max(0, len(prompt) + count - TOKENS)))
    logits = logits_of(row)[:, :TOKENS].float().cpu()
    return Probe(input_ids, logits, prompt, *greedy(logits_of, prompt, count))


@torch.no_grad()
def greedy(
    logits_of: Logits, prompt: torch.Tensor, count: int, stops: Iterable[int] = ()
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the likeliest tokens after the prompt, int64 [N], and their margins, fp32 [N]: `count`, or fewer where
    one of them is in `stops`, which is then the last."""
    row = torch.zeros(1, len(prompt) + count, dtype=torch.int64)
    row[0, : len(prompt)] = prompt
    answer, margins, stops = list[int](), list[float](), set(stops)
    while len(answer) < count and not stops & set(answer[-1:]):
        at = len(prompt) + len(answer)
        logits = logits_of(row)[0, at - 1].float()  # [V]
        (first, second), (token, _) = (each.tolist() for each in logits.topk(2))
        answer.append(token)
        margins.append((first - second) / logits.abs().max().item())
        row[0, at] = token
    return torch.tensor(answer), torch.tensor(margins)


def write_probe(folder: Path, probe: Probe) -> None:
    """Puts the probe beside a checkpoint that counts already: whole, by one rename, or not at all."""
    with replaced(folder / PROBE) as beside:
        save_tensors({name: value.contiguous() for name, value in vars(probe).items()}, beside)


def read_probe(folder: Path) -> Probe:
    """Returns the probe beside the checkpoint in `folder`; Damaged when it is cut off.

    One of an older version has logits alone: its answer is empty.
    """
    none = {"prompt": torch.zeros(1).long(), "answer": torch.zeros(0).long(), "margins": torch.zeros(0)}
    try:
        tensors = load_file(folder / PROBE)
        return Probe(**(none | tensors))
    except (SafetensorError, TypeError) as error:
        raise Damaged(f"{folder / PROBE} cannot be read: {error}") from error


def check_live(model: nn.Module, folder: Path, tolerance: float, stops: Iterable[int] = ()) -> None:
    """Raises RuntimeError unless `model` says what the live model said, where the checkpoint in `folder` kept that.

    tolerance: of logits, as a share of the largest. stops: the ids that end an answer of `model`.
    Its answer is the live model's, up to the first token where the two likeliest are so close that `tolerance` of
    each could make either win, and ends where that one meets the first of `stops`.
    """
    if not (folder / PROBE).is_file():
        return
    live, model = read_probe(folder), model.eval()

    @torch.no_grad()
    def logits_of(input_ids: torch.Tensor) -> torch.Tensor:
        return model(input_ids=input_ids).logits.float()

    distance = ((logits_of(live.input_ids) - live.logits).abs().max() / live.logits.abs().max()).item()
    if not distance <= tolerance:
        raise RuntimeError(
            f"the export's logits differ from the live model's by {distance:.1e}, more than {tolerance:.1e}"
        )
    expected, stops = live.answer.tolist(), set(stops)
    answer = greedy(logits_of, live.prompt, len(expected), stops)[0].tolist()
    expected = expected[: next((i + 1 for i, token in enumerate(expected) if token in stops), None)]
    sure = next((i for i, margin in enumerate(live.margins.tolist()) if margin <= 2 * tolerance), None)
    if answer[:sure] != expected[:sure]:
        raise RuntimeError(f"the export answers {answer} where the live model answers {expected}, in token ids")
