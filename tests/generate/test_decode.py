"""Answers are those of transformers' generate, whatever the batch, the strategy and the number of processes."""

from typing import Any

import numpy as np
import pytest
import torch

from distft.data.batches import make_batch
from distft.data.shards import Row
from distft.generate.decode import Prompt, Rules, decode, decoding, share
from distft.generate.sampling import Chooser, Sampling
from distft.losses.cross_entropy import logits
from distft.runtime.process_group import World
from tests.support.alone import alone
from tests.support.generate_cases import END, MODEL, NEW_TOKENS, SAMPLED, STRATEGIES, answer, prompts, ready
from tests.support.ranks import run_ranks
from tests.support.reference import dense
from tests.support.trained import MODELS


def by_transformers(name: str, asked: list[Prompt], ends: list[int], dtype: torch.dtype = torch.float32) -> Any:
    """Returns index -> generated tokens, each prompt answered alone."""
    model = dense(name, 0).to(dtype).eval()
    model.set_attn_implementation("sdpa")
    found = {}
    for prompt in asked:
        ids = torch.tensor([prompt.token_ids])
        settings = {"max_new_tokens": prompt.max_new_tokens, "eos_token_id": ends or None, "pad_token_id": 0}
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **settings)
        found[prompt.index] = out[0, ids.shape[1] :].tolist()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens_are_those_of_transformers(name: str) -> None:
    without_end = by_transformers(name, prompts(), [])
    ends = [without_end[3][6], without_end[4][9]]  # some answers stop at them
    expected = by_transformers(name, prompts(), ends)
    with alone() as world, decoding(ready(name, "fsdp", world), world.device) as live:
        rules = Rules(Chooser(Sampling(), {}, ends), frozenset(ends))
        found = list(decode(live, share(prompts(), 3, world), rules, world))
    assert {each.index: each.token_ids for each in found} == expected
    ended = {each.index: each.token_ids[-1] in ends for each in found}
    assert any(ended.values()) and not all(ended.values())
    assert {each.index: each.stopped for each in found} == {i: "eos" if ended[i] else "length" for i in ended}


@pytest.fixture(scope="module")
def by_one() -> dict[str, list[list[Any]]]:
    """The answers of one process in one batch, for each set of prompts."""
    with alone() as world:
        engine = ready(MODEL, "fsdp", world)
        sets = {"greedy": (prompts(), Sampling()), "sampled": (prompts(), SAMPLED), "few": (prompts(1), Sampling())}
        found = {name: answer(engine, world, *asked, batch_size=7) for name, asked in sets.items()}
    return {name: [[each.index, each.token_ids, each.stopped] for each in answers] for name, answers in found.items()}


@pytest.mark.slow
def test_one_batch_answers_as_transformers_does(by_one: Any) -> None:
    assert {i: tokens for i, tokens, _ in by_one["greedy"]} == by_transformers(MODEL, prompts(), [END])
    assert sorted(by_one["sampled"]) != sorted(by_one["greedy"])


@pytest.mark.slow
@pytest.mark.parametrize("world", [pytest.param(2, marks=pytest.mark.soak), 3])
def test_several_processes_answer_like_one(world: int, by_one: Any) -> None:
    found = run_ranks(world, "tests.support.generate_cases")
    for strategy in STRATEGIES:
        for name, expected in by_one.items():
            shares = found[f"{strategy} {name}"]
            assert sorted(each for share in shares for each in share) == sorted(expected), f"{strategy} {name}"
    assert len({len(share) for share in found["fsdp greedy"]}) > 1 and not found["fsdp few"][1]  # unequal shares


@pytest.mark.slow
@pytest.mark.soak
def test_zero3_answers_like_fsdp_on_one_process(by_one: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")  # which DeepSpeed reads
    with alone() as world:
        found = answer(ready(MODEL, "zero3", world), world, prompts(), Sampling())
    assert sorted([each.index, each.token_ids, each.stopped] for each in found) == sorted(by_one["greedy"])


@pytest.mark.slow
def test_bf16_weights_keep_the_cache() -> None:
    asked = prompts(4)
    with alone() as world:
        found = answer(ready(MODEL, "fsdp", world, precision="bfloat16"), world, asked, Sampling(), batch_size=1)
    expected = by_transformers(MODEL, asked, [END], torch.bfloat16)
    assert {each.index: each.token_ids for each in found} == expected


@pytest.mark.parametrize("name", ["gemma3_4b", "gpt2", "llama3_8b"])
def test_padded_logits_are_those_of_training(name: str) -> None:
    asked = prompts()
    with alone() as world:
        engine = ready(name, "fsdp", world)
        seen: dict[int, torch.Tensor] = {}

        def choose(values: torch.Tensor, _: Any, rows: Any) -> list[int]:
            seen.update({index: values[i].clone() for i, (index, _) in enumerate(rows)})
            return [0] * len(values)

        once = [Prompt(each.index, each.token_ids, 1) for each in asked]
        with decoding(engine, world.device) as live:
            list(decode(live, share(once, 7, world), Rules(choose, frozenset()), world))  # pyright: ignore[reportArgumentType]
        for prompt in asked:
            tokens = np.array(prompt.token_ids, dtype=np.int32)
            with torch.no_grad():
                batch = make_batch([Row(tokens, np.zeros(len(tokens), bool))])
                trained = engine.forward(batch, logits)[1]["logits"][0, -1]
            assert (seen[prompt.index] - trained).abs().max() <= 2e-6 * trained.abs().max()


def test_an_answer_ends_at_its_own_length() -> None:
    with alone() as world:
        found = answer(ready(MODEL, "ddp", world), world, prompts(), Sampling(), batch_size=7)
    lengths = {each.index: len(each.token_ids) for each in found if each.stopped == "length"}
    assert lengths[1] == 4 and {n for i, n in lengths.items() if i != 1} == {NEW_TOKENS}


def test_batches_hold_prompts_of_similar_length() -> None:
    worlds = [World(rank, 3, rank, 3, torch.device("cpu")) for rank in range(3)]
    shares = [share(prompts(), 2, world) for world in worlds]
    lengths = [[len(prompt.token_ids) for prompt in batch] for each in shares for batch in each]
    assert lengths == [[40, 30], [1], [22, 17], [5, 3]]


def test_a_stop_text_ends_an_answer() -> None:
    def third(tokens: Any) -> bool:
        return len(tokens) == 3

    with alone() as world, decoding(ready(MODEL, "ddp", world), world.device) as live:
        rules = Rules(Chooser(Sampling(), {}, []), frozenset(), third)
        found = list(decode(live, share(prompts(2), 2, world), rules, world))
    assert {(len(each.token_ids), each.stopped) for each in found} == {(3, "stop")}


def test_decoding_leaves_the_engine_as_it_was() -> None:
    with alone() as world:
        engine = ready(MODEL, "fsdp", world)
        before = engine.objective.model.config._attn_implementation
        engine.train(True)
        with decoding(engine, world.device) as live:
            assert live.model.config._attn_implementation == "sdpa" and not live.model.training
        assert engine.objective.model.config._attn_implementation == before == "distft_sdpa"
        assert engine.objective.training
