"""Samples in the loop: each evaluation of a run answers the same held-out prompts, into eval/samples.jsonl.

The evaluation before the first step is that of the base model: the answers before and after are then of one prompt.
Each answer comes with the share of it that the training rows contain verbatim (distft.generate.memorization).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distft.config import Config
from distft.data.render import make_renderer
from distft.data.shards import MANIFEST, Rows
from distft.data.tokenize import load_tokenizer
from distft.generate.decode import Prompt, Rules, decode, decoding, share
from distft.generate.memorization import verbatim_shares
from distft.generate.prompts import cut, last_turn
from distft.generate.ranks import rules_of
from distft.generate.samples_file import SampleLine, append, keep, samples_file
from distft.generate.settings import Settings
from distft.generate.source import limits_of
from distft.run import Plan, RunFolder, read_json
from distft.runtime.process_group import World, texts_of_all
from distft.strategies.engine import Engine

MAX_NEW_TOKENS, BATCH = 64, 16


def make_samples(
    engine: Engine, config: Config, plan: Plan, run: RunFolder, world: World, start_step: int
) -> Callable[[int], None] | None:
    """Returns what answers the prompts after the evaluation of a step; None where eval.samples is 0.

    Samples of steps after `start_step`, which this start makes again, are dropped from the file.
    """
    if not config.eval.samples or not plan.eval_rows:
        return None
    tokenizer = load_tokenizer(plan.tokenizer_dir, config.model.trust_remote_code)
    recorded: Mapping[str, Any] = read_json(plan.rows_dir / MANIFEST).get("rendering") or {}
    limits = limits_of(config, plan, recorded.get("end_token_ids", ()))
    rules = rules_of(Settings(), limits.ends, limits.penalties, tokenizer)
    rows = Rows(plan.rows_dir, "eval")
    cuts = [cut(rows[i]) for i in range(min(config.eval.samples, len(rows)))]
    room = limits.positions or 2**31
    prompts = [Prompt(i, ids[:begins], min(MAX_NEW_TOKENS, room - begins)) for i, (ids, begins) in enumerate(cuts)]
    renderer = make_renderer(tokenizer, recorded.get("chat_template") or "none", config.data.seed_date)
    shown = [
        {
            "prompt": _text(tokenizer, ids[:begins]),
            "question": last_turn(renderer, _text(tokenizer, ids[:begins], special=True)),
            "expected": _text(tokenizer, ids[begins:]),
        }
        for ids, begins in cuts
    ]
    if world.is_first:
        keep(samples_file(run), start_step)

    trained = Rows(plan.rows_dir, "train", config.data.shards)
    expected_shares = verbatim_shares([ids[begins:] for ids, begins in cuts], trained, world)

    def sample(step: int) -> None:
        answers = answer(engine, prompts, rules, world)
        shares = verbatim_shares([answers[i] for i in range(len(shown))], trained, world)
        if world.is_first:
            lines: list[SampleLine] = [
                {
                    "step": step,
                    "prompt": each["prompt"],
                    "question": each["question"],
                    "expected": each["expected"],
                    "completion": _text(tokenizer, answers[i]),
                    "verbatim": shares[i],
                    "expected_verbatim": expected_shares[i],
                }
                for i, each in enumerate(shown)
            ]
            append(samples_file(run), lines)

    return sample


def answer(engine: Engine, prompts: Sequence[Prompt], rules: Rules, world: World) -> dict[int, list[int]]:
    """Returns the generated tokens by index of the prompt, on every process; the engine goes on training after it."""
    with decoding(engine, world.device) as live:
        own = {each.index: each.token_ids for each in decode(live, share(prompts, BATCH, world), rules, world)}
    return {int(index): ids for text in texts_of_all(json.dumps(own), world) for index, ids in json.loads(text).items()}


def _text(tokenizer: Any, token_ids: Sequence[int], special: bool = False) -> str:
    return tokenizer.decode(list(token_ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False)
