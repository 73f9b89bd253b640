"""Real rows of unequal length, made of the demo's dialogues: the same bytes on every machine.

A row is a question of the ChatterBot corpus with its answer as the completion. Other dialogues of the corpus precede
the question, as a log of the conversation, until the row has its length. The lengths are the quantiles of a
log-normal distribution, cut below a model's limit: median 64 tokens, mean 190, longest about 1,000 of SmolLM2's.
"""

import hashlib
import json
import math
import random
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from statistics import NormalDist

from distft.config.errors import Unavailable
from distft.demo import __main__ as demo
from distft.paths import absolute

Pair = dict[str, str]  # prompt, completion

BLOCK = 32  # rows with the whole spread of lengths in them: what one round trains on
BLOCKS = 4
_WARM_UP = 8
_MEDIAN_LETTERS = 120  # of prompt and completion; the chat template adds about 30 tokens
_SIGMA = 2.3  # of the logarithm of the letters
_MOST_LETTERS = 3450  # just under 1,024 tokens: none is cut
_OFFSETS = (0.375, 0.625, 0.125, 0.875)  # of the quantiles of a block, so that four of them are 128 even ones


def unequal_rows(pairs: Sequence[Pair], blocks: int = BLOCKS) -> list[Pair]:
    """Returns `blocks` x BLOCK rows; every block has the same spread of lengths, in an order of its own."""
    short = [pair for pair in pairs[:-_WARM_UP] if sum(map(len, pair.values())) <= _MEDIAN_LETTERS]
    questions, others = iter(short), cycle(reversed(short))
    rows: list[Pair] = []
    for block in range(blocks):
        letters = [_letters((i + _OFFSETS[block % BLOCKS]) / BLOCK) for i in range(BLOCK)]
        random.Random(block).shuffle(letters)
        rows += [_row(next(questions), others, most) for most in letters]
    return rows


def warm_up_rows(pairs: Sequence[Pair]) -> list[Pair]:
    """Returns rows for one step before the measured ones; none of them is among those."""
    return [_row(pair, cycle(pairs), 200 * i) for i, pair in enumerate(pairs[-_WARM_UP:], start=1)]


def uniform_texts(pairs: Sequence[Pair], count: int) -> list[dict[str, str]]:
    """Returns rows of plain text, each longer than 512 tokens of any usual tokenizer; cut them at data.max_length."""
    others = cycle(pairs)
    return [{"text": "\n".join(f"{p['prompt']}\n{p['completion']}" for p in islice(others, 60))} for _ in range(count)]


def demo_folder() -> Path:
    """Returns the folder with the demo's model and dialogues, fetched now; Unavailable when that fails."""
    if demo.main(["--fetch-only"]) != 0:
        raise Unavailable("the demo's model and dialogues could not be fetched")
    return absolute("~/.cache/distft") / "demo"


def read_pairs(file: Path) -> list[Pair]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def write_rows(rows: Sequence[dict[str, str]], file: Path) -> str:
    """Writes one JSON object a line; returns the sha256 of the file."""
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _letters(quantile: float) -> int:
    return min(_MOST_LETTERS, int(_MEDIAN_LETTERS * math.exp(_SIGMA * NormalDist().inv_cdf(quantile))))


def _row(pair: Pair, others: "cycle[Pair]", most_letters: int) -> Pair:
    """Returns `pair` with other dialogues before its question, while all of it has at most `most_letters` letters."""
    before: list[str] = []
    letters = len(pair["prompt"]) + len(pair["completion"])
    while letters < most_letters:
        other = next(others)
        text = f"{other['prompt']}\n{other['completion']}\n"
        letters += len(text)
        if letters <= most_letters:
            before.append(text)
    return {"prompt": "".join(before) + pair["prompt"], "completion": pair["completion"]}
