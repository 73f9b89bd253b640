"""Audit jobs: texts that a model scores and prompts that it answers, on the processes of a run.

Base and tuned model get the same job, so each measure compares equal texts. The command imports no torch; the ranks do.
"""

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from distft.audit.measures import Measure
from distft.generate.job import freeze, read_answers
from distft.generate.scored import SCORES, TEXTS, Continuation, Likelihood, read_scores, write_texts
from distft.generate.settings import Settings
from distft.generate.source import Source
from distft.launchers.local import Local, LocalConfig
from distft.run import RunFolder

WORK = "distft.inference.score"


@dataclass(frozen=True)
class Results:
    """What a model said: the scores of all texts and the answers to all prompts, by their index."""

    scores: Sequence[Likelihood]
    answers: Sequence[str]


class Part(Protocol):
    """One part of an audit; it has asked what it needs."""

    def measures(self, base: Results, tuned: Results) -> list[Measure]: ...


@dataclass
class Questions:
    """Collects texts to score and prompts to answer, each once. room: positions of the model; None: unlimited."""

    tokenizer: Any
    room: int | None = None
    texts: list[Continuation] = field(default_factory=list)
    prompts: list[list[int]] = field(default_factory=list)
    _known: dict[tuple[int, ...], int] = field(default_factory=dict)

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text; special tokens in it become single tokens."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def score(self, prompt: Sequence[int], continuation: Sequence[int]) -> int | None:
        """Asks for the log-likelihood of tokens after others; returns its index, None where there is no room for it."""
        token_ids, begins = [*prompt, *continuation], len(prompt)
        if not prompt:
            begins = 1  # the first token of a text has no context
        if len(token_ids) <= begins or (self.room is not None and len(token_ids) > self.room):
            return None
        key = (-1, begins, *token_ids)
        if key not in self._known:
            self._known[key] = len(self.texts)
            self.texts.append(Continuation(len(self.texts), token_ids, begins))
        return self._known[key]

    def score_text(self, prompt: str, continuation: str) -> int | None:
        return self.score(self.encode(prompt), self.encode(continuation))

    def answer(self, prompt: Sequence[int]) -> int | None:
        """Asks for a greedy answer to a prompt; returns its index, None where there is no room for it."""
        if not prompt or (self.room is not None and len(prompt) >= self.room):
            return None
        key = (-2, *prompt)
        if key not in self._known:
            self._known[key] = len(self.prompts)
            self.prompts.append(list(prompt))
        return self._known[key]


def ask(source: Source, questions: Questions, max_new_tokens: int) -> Results:
    """Returns what the model of a source says; RuntimeError with the first failing rank where the job failed."""
    from distft.checkpoint.retention import reading

    folder = Path(tempfile.mkdtemp(prefix="distft-audit-"))
    try:
        changed = replace(source, config=source.config.changed({"work": WORK}))
        job = freeze(folder / "job", changed, questions.prompts, Settings(max_new_tokens=max_new_tokens))
        write_texts(job.path / TEXTS, questions.texts)
        (job.path / SCORES).mkdir()
        with reading(source.checkpoint) if source.checkpoint else nullcontext():  # a run that goes on keeps it
            [handle] = Local(LocalConfig()).submit([job.path])
            while (outcome := handle.wait(0.2)) is None:
                pass
        if outcome.error:
            log = Path(outcome.error["log"])
            tail = log.read_text(errors="replace")[-2000:] if log.is_file() else ""
            raise RuntimeError(f"{outcome.error['type']}: {outcome.error['message']}\n{tail}")
        return read_results(job, source, questions)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_results(job: RunFolder, source: Source, questions: Questions) -> Results:
    """Returns the results in a job's folder; RuntimeError where some are missing."""
    scores = read_scores(job.path / SCORES)
    found = {each.index: each for each in read_answers(job)}
    if len(scores) != len(questions.texts) or len(found) != len(questions.prompts):
        raise RuntimeError(
            f"{source.name}: {len(scores)} of {len(questions.texts)} scores and {len(found)} of "
            f"{len(questions.prompts)} answers"
        )
    kept = [found[i].token_ids[:-1] if found[i].stopped == "eos" else found[i].token_ids for i in range(len(found))]
    return Results(scores, [source.render.decode(ids) for ids in kept])
