"""Reference outputs of the live model, stored with a checkpoint to verify an export: logits and a greedy completion.

Trap: all outputs come from full forwards over rows of one length, so nothing is compiled twice and no KV cache is
needed. In a causal model the padding after a token does not change its logits.
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
PROMPT = 12  # tokens at most, so that prompt and answer make a short row: each answer token costs a whole forward
PROMPTS = 100  # rows from which the shortest prompt is taken

Logits = Callable[[torch.Tensor], torch.Tensor]  # of token ids, int64 [1, S] -> [1, S, V]


@dataclass(frozen=True)
class Probe:
    """Outputs of the live model on fixed inputs."""

    input_ids: torch.Tensor  # int64 [1, S]
    logits: torch.Tensor  # of these tokens, fp32 [1, S, V]
    prompt: torch.Tensor  # int64 [P]
    answer: torch.Tensor  # int64 [N], greedy, not ended by stop tokens
    margins: torch.Tensor  # fp32 [N]: distance of the two largest logits, as a share of the largest absolute one


def probe_tokens(vocab_size: int) -> torch.Tensor:
    """Returns one row of token ids spread over the vocabulary, int64 [1, S]."""
    return torch.linspace(0, vocab_size - 1, TOKENS).long()[None]


def probe_prompt(rows: Iterable[Row]) -> torch.Tensor:
    """Returns the shortest prompt of the rows, int64 [P]: the tokens before the first trained one.

    Only its last PROMPT tokens; at least the first token of a row.
    """
    prompts = [row.input_ids[: max(1, int(np.argmax(row.trained)))] for row in rows]
    return torch.from_numpy(min(prompts, key=len)[-PROMPT:].astype(np.int64))


@torch.no_grad()
def take_probe(logits_of: Logits, vocab_size: int, prompt: torch.Tensor, longest: int | None) -> Probe:
    """Returns the outputs of the model behind `logits_of`; all its processes call this with the same prompt.

    longest: the number of positions of the model; None: no limit.
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
    """Returns the greedy tokens after the prompt, int64 [N], and their margins, fp32 [N].

    N is `count`, or less where a token is in `stops`; that token is then the last.
    """
    row = torch.zeros(1, len(prompt) + count, dtype=torch.int64)
    row[0, : len(prompt)] = prompt
    answer, margins, stops = list[int](), list[float](), set(stops)
    while len(answer) < count and not stops & set(answer[-1:]):
        at = len(prompt) + len(answer)
        logits = logits_of(row)[0, at - 1].float()  # [V]
        (first, second), (token, _) = (each.tolist() for each in logits.topk(2))
        answer.append(token)
        largest = logits.abs().max().item()
        margins.append((first - second) / largest if largest else 0.0)  # all are 0 after a run that diverged
        row[0, at] = token
    return torch.tensor(answer), torch.tensor(margins)


def write_probe(folder: Path, probe: Probe) -> None:
    """Adds the probe to a committed checkpoint by one rename."""
    with replaced(folder / PROBE) as new:
        save_tensors({name: value.contiguous() for name, value in vars(probe).items()}, new)


def read_probe(folder: Path) -> Probe:
    """Returns the probe of the checkpoint in `folder`; Damaged when it is truncated.

    Older versions stored logits only: then the answer is empty.
    """
    empty = {"prompt": torch.zeros(1).long(), "answer": torch.zeros(0).long(), "margins": torch.zeros(0)}
    try:
        tensors = load_file(folder / PROBE)
        return Probe(**(empty | tensors))
    except (SafetensorError, TypeError) as error:
        raise Damaged(f"{folder / PROBE} cannot be read: {error}") from error


def check_live(model: nn.Module, folder: Path, tolerance: float, stops: Iterable[int] = ()) -> None:
    """Raises RuntimeError unless `model` matches the probe of the checkpoint in `folder`; passes where there is none.

    tolerance: of logits, as a share of the largest. stops: ids of the tokens that end an answer of `model`.
    Answers are compared up to the first stop token, and up to the first token whose two largest logits are within
    twice the tolerance, where either may win.
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
