"""Texts to score and their log-likelihoods, and the files of a job that hold them. Nothing here imports torch."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

TEXTS, SCORES = "texts.json", "scores"  # of a job's folder


@dataclass(frozen=True)
class Continuation:
    """A text to score: the tokens from `begins` on, after those before. begins: at least 1."""

    index: int
    token_ids: Sequence[int]
    begins: int

    @property
    def num_targets(self) -> int:
        return len(self.token_ids) - self.begins


@dataclass(frozen=True)
class Likelihood:
    """The score of one continuation. log_likelihood: nats, summed over `tokens`. greedy: each token is the argmax."""

    index: int
    log_likelihood: float
    tokens: int
    greedy: bool

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood per token, in nats."""
        return -self.log_likelihood / max(1, self.tokens)


def write_scores(file: Path, scores: Iterable[Likelihood]) -> None:
    """Writes a line for each score as it is made."""
    with file.open("w", buffering=1) as opened:
        for each in scores:
            opened.write(json.dumps(asdict(each)) + "\n")


def read_scores(folder: Path) -> list[Likelihood]:
    """Returns the scores that all ranks have written to a folder, by index."""
    lines = [line for file in sorted(folder.glob("rank-*.jsonl")) for line in file.read_text().splitlines()]
    return sorted((Likelihood(**json.loads(line)) for line in lines), key=lambda each: each.index)


def write_texts(file: Path, texts: Sequence[Continuation]) -> None:
    """Writes the texts of a job."""
    file.write_text(json.dumps([[list(text.token_ids), text.begins] for text in texts]))


def read_texts(file: Path) -> list[Continuation]:
    """Returns the texts of a job, as its ranks read them."""
    return [Continuation(i, ids, begins) for i, (ids, begins) in enumerate(json.loads(file.read_text()))]
