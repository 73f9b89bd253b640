"""Speed of generation next to transformers' `generate`: `python -m benchmarks.generation` prints a Markdown table.

The demo's model in fp32 answers the demo's prompts greedily in one batch with a key-value cache. Both run in this
process and take turns, and the ratio is the median over rounds, because the machine may be shared. `fixed`: every
answer has as many tokens; `natural`: answers end at an end token, where distft makes the batch smaller.
"""

import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.rows import demo_folder, read_pairs
from distft.config import ConfigError, command
from distft.config.command import keywords, usage
from distft.generate.decode import LiveModel, Prompt, decode, decoding, share
from distft.generate.prompts import text_prompt
from distft.generate.ranks import rules_of
from distft.generate.settings import Settings
from distft.generate.source import Source, find_source
from distft.inference import load_model
from distft.runtime.process_group import World, single_process

KEYS = {
    "rounds": "how often both take turns (default 5)",
    "prompts": "in the batch (default 16)",
    "max_new_tokens": "of an answer (default 48)",
}
CLAIM = "Prints tokens/s of distft and of transformers, and their ratio."


@contextmanager
def live_model(source: Source) -> Iterator[tuple[LiveModel, World]]:
    with single_process() as world:
        with TemporaryDirectory() as empty:
            engine = load_model(source.config, source.plan, Path(empty), world)
        with decoding(engine, world.device) as live:
            yield live, world


def timed(answer: Callable[[], int]) -> tuple[float, float, int]:
    """Returns seconds, seconds of all cores, and generated tokens."""
    wall, cores = time.perf_counter(), time.process_time()
    tokens = answer()
    return time.perf_counter() - wall, time.process_time() - cores, tokens


def by_transformers(model: Any, prompts: list[Prompt], ends: list[int]) -> int:
    width = max(len(prompt.token_ids) for prompt in prompts)
    rows = [[0] * (width - len(prompt.token_ids)) + list(prompt.token_ids) for prompt in prompts]
    mask = [[0] * (width - len(prompt.token_ids)) + [1] * len(prompt.token_ids) for prompt in prompts]
    out = model.generate(
        torch.tensor(rows),
        attention_mask=torch.tensor(mask),
        do_sample=False,
        max_new_tokens=prompts[0].max_new_tokens,
        eos_token_id=ends or None,
        pad_token_id=0,
    )
    answers = out[:, width:].tolist()
    return sum(next((i + 1 for i, token in enumerate(each) if token in ends), len(each)) for each in answers)


def main(arguments: list[str]) -> int:
    given = keywords(arguments, KEYS, required=())
    try:
        rounds, count, tokens = (int(given.get(key, default)) for key, default in zip(KEYS, (5, 16, 48), strict=True))
    except ValueError as error:
        raise ConfigError([str(error)]) from error
    folder = demo_folder()
    source = find_source(str(folder / "smollm2-135m-instruct"), None, {"precision": "fp32", "strategy": "ddp"})
    texts = [pair["prompt"] for pair in read_pairs(folder / "chatterbot.jsonl")]
    chosen = random.Random(0).sample(texts, count)
    prompts = [Prompt(i, source.render(text_prompt(text)), tokens) for i, text in enumerate(chosen)]
    peer: Any = AutoModelForCausalLM.from_pretrained(folder / "smollm2-135m-instruct", dtype=torch.float32).train(False)
    print("| answers | distft tokens/s | transformers | ratio | ratio of core seconds |\n|---|---:|---:|---:|---:|")
    with live_model(source) as (live, world):
        for name, ends in (("fixed", []), ("natural", list(source.ends))):
            rules = rules_of(Settings(), ends, {}, None)

            def ours(rules: Any = rules) -> int:
                return sum(len(each.token_ids) for each in decode(live, share(prompts, count, world), rules, world))

            def theirs(ends: list[int] = ends) -> int:
                return by_transformers(peer, prompts, ends)

            found = []
            for turn in range(rounds + 1):
                order = (ours, theirs) if turn % 2 else (theirs, ours)
                done = {each: timed(each) for each in order}
                if done[ours][2] != done[theirs][2]:
                    print(f"{name}: {done[ours][2]} tokens, transformers {done[theirs][2]}", file=sys.stderr)
                if turn:  # the first one warms up
                    found.append((done[ours], done[theirs]))
            speeds = [statistics.median(of[i][2] / of[i][0] for of in found) for i in (0, 1)]
            wall, cores = (statistics.median(theirs[i] / ours[i] for ours, theirs in found) for i in (0, 1))
            print(f"| {name} | {speeds[0]:.1f} | {speeds[1]:.1f} | {wall:.2f} | {cores:.2f} |")
    return 0


if __name__ == "__main__":
    command(main, help=usage("generation", KEYS, CLAIM).replace("distft.generation", "benchmarks.generation"))
