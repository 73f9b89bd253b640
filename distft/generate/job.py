"""A generation job: a folder with the prompts as tokens, which ranks answer into files of their own.

The ranks import torch, the command does not. Rank N appends each answer to answers/rank-N.jsonl as it ends.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

from distft.config import frozen_text
from distft.generate.settings import Settings
from distft.generate.source import Source
from distft.run import RunFolder, read_json, write_json

PROMPTS, ANSWERS, STATISTICS = "prompts.json", "answers", "statistics.json"


@dataclass(frozen=True)
class Generated:
    """The answer to one prompt. token_ids: with the end token, where it stopped at one."""

    index: int
    token_ids: list[int]
    stopped: str


class JobPrompt(TypedDict):
    token_ids: list[int]
    max_new_tokens: int


class Job(TypedDict):
    """prompts.json. settings: of distft.generate.settings. ends: token ids that end an answer."""

    settings: Mapping[str, Any]
    ends: list[int]
    penalties: Mapping[str, Any]
    adapters: str | None
    prompts: list[JobPrompt]


def freeze(folder: Path, source: Source, token_ids: Sequence[Sequence[int]], settings: Settings) -> RunFolder:
    """Writes a job's folder; an answer ends at the last position of the model."""
    job = RunFolder(folder)
    (folder / ANSWERS).mkdir(parents=True)
    job.config.write_text(frozen_text(source.config))
    job.write_plan(source.plan)
    room = source.positions or 2**31
    prompts: list[JobPrompt] = [
        {"token_ids": list(ids), "max_new_tokens": min(settings.max_new_tokens, room - len(ids))} for ids in token_ids
    ]
    about: Job = {
        "settings": asdict(settings),
        "ends": list(source.ends),
        "penalties": dict(source.penalties),
        "adapters": str(source.adapters) if source.adapters else None,
        "prompts": prompts,
    }
    write_json(folder / PROMPTS, about)
    job.write_status(state="pending", attempt=1, error=None)
    return job


def read_job(job: RunFolder) -> Job:
    """Returns the prompts and settings of a job, as its ranks read them."""
    return read_json(job.path / PROMPTS)


def answers_file(job: RunFolder, rank: int) -> Path:
    return job.path / ANSWERS / f"rank-{rank}.jsonl"


def read_answers(job: RunFolder) -> Iterator[Generated]:
    """Yields the answers that all ranks have written so far; skips a line that is being written."""
    for file in sorted((job.path / ANSWERS).glob("rank-*.jsonl")):
        for line in file.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                yield Generated(**json.loads(line))


def count_answers(job: RunFolder) -> int:
    """Returns how many answers there are so far."""
    return sum(file.read_bytes().count(b"\n") for file in (job.path / ANSWERS).glob("rank-*.jsonl"))
