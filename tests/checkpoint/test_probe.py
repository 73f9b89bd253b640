"""An export generates the answer of the live model: the same tokens, up to the same stop token."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from distft.checkpoint.probe import ANSWER, Probe, check_live, greedy, probe_prompt, read_probe, take_probe, write_probe
from distft.data.shards import Row
from tests.support.reference import dense
from tests.support.trained import MAIN

PROMPT = torch.tensor([7, 300, 12])


@pytest.fixture(scope="module")
def model() -> Any:
    distfts = dense(MAIN, 0)
    model = AutoModelForCausalLM.from_config(distfts.config, attn_implementation="sdpa")
    model.load_state_dict(distfts.state_dict())
    return model.eval()


@pytest.fixture(scope="module")
def probe(model: Any) -> Probe:
    return take_probe(lambda ids: model(input_ids=ids).logits, 512, PROMPT, None)


@pytest.mark.slow
def test_the_answer_is_the_one_that_generate_gives(model: Any, probe: Probe) -> None:
    """Which has a cache, and no tokens behind the last."""
    made = model.generate(PROMPT[None], max_new_tokens=ANSWER, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(probe.answer, made[0, len(PROMPT) :])
    assert len(probe.margins) == ANSWER and (probe.margins > 0).all()


@pytest.mark.slow
def test_an_answer_ends_with_the_first_stop_token(model: Any, probe: Probe) -> None:
    stop = int(probe.answer[4])
    first = probe.answer.tolist().index(stop)
    found, _ = greedy(lambda ids: model(input_ids=ids).logits, PROMPT, ANSWER, [511, stop])
    assert found.tolist() == probe.answer[: first + 1].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 7, ANSWER - 1])
def test_another_answer_is_detected_except_for_near_ties(at: int, model: Any, probe: Probe, tmp_path: Path) -> None:
    answer = probe.answer.clone()
    answer[at] = (answer[at] + 1) % 512
    write_probe(tmp_path, replace(probe, answer=answer))
    with pytest.raises(RuntimeError, match="the export answers .* where the live model answers"):
        check_live(model, tmp_path, 1e-6)
    if at:
        margins = probe.margins.clone()
        margins[at] = 1e-6
        write_probe(tmp_path, replace(probe, answer=answer, margins=margins))
        check_live(model, tmp_path, 1e-6)
        margins[at - 1], margins[at] = 1.0, 3e-6
        write_probe(tmp_path, replace(probe, answer=answer, margins=margins))
        with pytest.raises(RuntimeError, match="the export answers"):
            check_live(model, tmp_path, 1e-6)


@pytest.mark.slow
def test_tokens_after_the_stop_token_are_not_compared(model: Any, probe: Probe, tmp_path: Path) -> None:
    answer = probe.answer.clone()
    answer[-1] = (answer[-1] + 1) % 512
    write_probe(tmp_path, replace(probe, answer=answer))
    check_live(model, tmp_path, 1e-6, stops=[int(answer[3])])


def test_a_probe_of_an_older_version_has_logits_alone(model: Any, probe: Probe, tmp_path: Path) -> None:
    write_probe(tmp_path, replace(probe, answer=probe.answer[:0], margins=probe.margins[:0]))
    assert len(read_probe(tmp_path).answer) == 0
    check_live(model, tmp_path, 1e-6)


def test_the_prompt_is_the_shortest_of_some_rows() -> None:
    def row(length: int, prompt: int) -> Row:
        return Row(np.arange(length, dtype=np.int32), np.arange(length) >= prompt)

    assert probe_prompt([row(9, 6), row(30, 4), row(8, 5)]).tolist() == [0, 1, 2, 3]
    assert probe_prompt([row(90, 80)]).tolist() == list(range(68, 80)), "the last tokens of a long one"
    assert probe_prompt([row(5, 0)]).tolist() == [0]


@pytest.mark.slow
@pytest.mark.parametrize(("longest", "prompt", "answer"), [(22, 2, 20), (20, 1, 19), (16, 1, 15)])
def test_it_fits_into_the_positions_of_the_model(longest: int, prompt: int, answer: int, model: Any) -> None:
    seen = []

    def logits_of(ids: torch.Tensor) -> torch.Tensor:
        seen.append(ids.shape[1])
        return model(input_ids=ids).logits

    found = take_probe(logits_of, 512, PROMPT, longest)
    assert (len(found.prompt), len(found.answer)) == (prompt, answer)
    assert max(seen) <= longest and len(set(seen)) == 1, "rows of one length: nothing is compiled twice"


def test_a_model_whose_logits_are_all_zero_has_no_sure_token():
    answer, margins = greedy(lambda ids: torch.zeros(*ids.shape, 8), PROMPT, ANSWER)
    assert len(answer) == ANSWER and margins.tolist() == [0.0] * ANSWER
