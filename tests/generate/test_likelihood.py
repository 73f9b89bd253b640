"""Log-likelihoods are those of transformers' logits, on any number of processes and under every strategy."""

from typing import Any

import pytest
import torch

from distft.generate.decode import decoding
from distft.generate.likelihood import make_batches, score_share
from distft.generate.scored import Continuation
from tests.support.alone import alone
from tests.support.generate_cases import MODEL, ready
from tests.support.likelihood_cases import scores, texts
from tests.support.ranks import run_ranks
from tests.support.reference import dense
from tests.support.trained import MODELS


def by_transformers(name: str) -> list[list[Any]]:
    """Returns [index, log-likelihood, tokens, greedy], each text scored alone."""
    model = dense(name, 0).eval()
    found = []
    for text in texts():
        ids = torch.tensor([list(text.token_ids)])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, text.begins - 1 : -1].double()
        targets = ids[0, text.begins :]
        each = logits.log_softmax(-1).gather(1, targets[:, None])
        found.append([text.index, float(each.sum()), len(targets), bool((logits.argmax(-1) == targets).all())])
    return found


def equal(one: list[list[Any]], other: list[list[Any]]) -> None:
    assert [[i, tokens, greedy] for i, _, tokens, greedy in one] == [[i, t, g] for i, _, t, g in other]
    assert [value for _, value, _, _ in one] == pytest.approx([value for _, value, _, _ in other], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_transformers(name: str) -> None:
    with alone() as world:
        equal(scores(name, "fsdp", world), by_transformers(name))


@pytest.mark.slow
def test_two_processes_score_like_one() -> None:
    with alone() as world:
        one = scores(MODEL, "fsdp", world)
    for strategy, found in run_ranks(2, "tests.support.likelihood_cases").items():
        equal(found, one)
        if strategy in ("ddp", "fsdp"):
            assert found == one, strategy


@pytest.mark.slow
def test_a_greedy_continuation_is_detected() -> None:
    with alone() as world, decoding(ready(MODEL, "fsdp", world), world.device) as live:
        ids = [1, 2, 3]
        for _ in range(4):
            shown = torch.tensor([ids])
            ids.append(int(dense(MODEL, 0).eval()(input_ids=shown).logits[0, -1].argmax()))
        other = [*ids[:-1], (ids[-1] + 1) % 256]
        asked = [Continuation(0, ids, 3), Continuation(1, other, 3), Continuation(2, [5], 1)]
        found = {each.index: each for each in score_share(live, asked, world)}
    assert set(found) == {0, 1}, "a text without tokens to score has no score"
    assert found[0].greedy and not found[1].greedy and found[0].log_likelihood > found[1].log_likelihood


def test_batches_hold_every_text_once_and_few_logits() -> None:
    made = make_batches(texts(count=40), vocabulary=2**20)
    assert sorted(text.index for batch in made for text in batch) == list(range(40))
    assert all(len(batch) == 1 or sum(text.num_targets for text in batch) <= 32 for batch in made)
    assert [len(batch[0].token_ids) for batch in made] == sorted((len(b[0].token_ids) for b in made), reverse=True)
