"""A rank's part of a generation job: answers its share of the prompts with a loaded engine."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from distft.data.tokenize import load_tokenizer
from distft.generate.decode import Prompt, Rules, decode, decoding, share
from distft.generate.job import STATISTICS, Generated, Job, answers_file
from distft.generate.sampling import Chooser, Sampling
from distft.generate.settings import Settings
from distft.models.adapters import is_adapter
from distft.run import RunFolder, write_json
from distft.runtime.process_group import World, all_reduce_sum
from distft.strategies.engine import Engine
from distft.tensors.streaming import folder_chunks, stream

PEFT_PREFIX = "base_model.model."  # of the names in an exported adapter
_TAIL = 8  # tokens before a stop text's own, so that a text which begins inside a token is seen


def answer_share(engine: Engine, job: RunFolder, about: Job, tokenizer_dir: str | None, world: World) -> None:
    """Writes the answers to this process's prompts; rank 0 then writes the job's statistics and its end.

    about: `read_job(job)`. MemoryError when the batch does not fit the device's memory.
    """
    settings = Settings(**about["settings"])
    tokenizer = load_tokenizer(tokenizer_dir) if settings.stop else None
    rules = rules_of(settings, about["ends"], about["penalties"], tokenizer)
    prompts = [Prompt(index, each["token_ids"], each["max_new_tokens"]) for index, each in enumerate(about["prompts"])]
    begun, tokens = time.perf_counter(), 0
    try:
        with decoding(engine, world.device) as live, answers_file(job, world.rank).open("w", buffering=1) as file:
            for answer in decode(live, share(prompts, settings.batch_size, world), rules, world):
                tokens += len(answer.token_ids)
                file.write(json.dumps(asdict(Generated(answer.index, answer.token_ids, answer.stopped))) + "\n")
    except torch.OutOfMemoryError as error:
        first = str(error).strip().splitlines()[0]
        less = max(1, settings.batch_size // 2)
        raise MemoryError(f"batch_size={settings.batch_size} does not fit: {first} Try: batch_size={less}") from error
    total = int(all_reduce_sum(torch.tensor(float(tokens), device=world.device)))
    if world.is_first:
        write_json(job.path / STATISTICS, {"tokens": total, "seconds": time.perf_counter() - begun})
        job.write_status(state="completed", step=0)


def stop_texts(stops: Sequence[str], tokenizer: Any) -> Callable[[Sequence[int]], bool]:
    """Returns whether the text of generated tokens contains a stop text, looking at the last tokens alone.

    A stop text of N bytes ends within N tokens of where it begins.
    """
    tail = max(len(stop.encode()) for stop in stops) + _TAIL

    def stopped(token_ids: Sequence[int]) -> bool:
        text = tokenizer.decode(list(token_ids[-tail:]), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return any(stop in text for stop in stops)

    return stopped


def load_adapters(engine: Engine, folder: Path, world: World) -> None:
    """Fills the adapters of an engine from an exported adapter's folder."""
    chunks = [
        replace(chunk, key=(chunk.key[0], chunk.key[1].removeprefix(PEFT_PREFIX)))
        for chunk in folder_chunks(folder, world)
    ]
    stream(chunks, [piece for piece in engine.pieces() if is_adapter(piece.name)], world)
    engine.refresh()


def rules_of(settings: Settings, ends: Sequence[int], penalties: Mapping[str, Any], tokenizer: Any) -> Rules:
    """Returns how tokens are chosen, and what ends an answer."""
    sampling = Sampling(settings.temperature, settings.top_p, settings.top_k, settings.seed)
    stops = stop_texts(settings.stop, tokenizer) if settings.stop else lambda _: False
    return Rules(Chooser(sampling, penalties, ends), frozenset(ends), stops)
