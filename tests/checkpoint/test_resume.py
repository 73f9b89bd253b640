"""A checkpoint continues a run: bitwise on the same layout, with the same state and losses on another strategy."""

import json
from pathlib import Path
from typing import Any

import pytest

from distft.checkpoint.format import step_dir
from distft.paths import conf_dir
from tests.ranks import run_ranks
from tests.rows import write_rows

STRATEGIES = sorted(path.stem for path in (conf_dir() / "strategy").glob("*.yaml"))
NEXT = dict(zip(STRATEGIES, [*STRATEGIES[1:], STRATEGIES[0]], strict=True))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    """Runs each strategy straight over 5 steps, cut after 3 steps, and continued by itself and by the next one."""
    folder = tmp_path_factory.mktemp("resume")
    rows = str(write_rows(folder / "rows"))
    cases: dict[tuple[str, str], dict[str, Any]] = {}
    for s in STRATEGIES:
        case = {"strategy": s, "model": "qwen3_8b", "micro": 2, "rows": rows}
        cut = str(folder / f"{s}-cut")
        cases[s, "straight"] = case | {"save": str(folder / f"{s}-straight")}
        cases[s, "cut"] = case | {"steps": 3, "save": cut}
        cases[s, "resumed"] = case | {"resume": str(step_dir(Path(cut), 3)), "save": str(folder / f"{s}-resumed")}
    for s in STRATEGIES:
        cut = cases[s, "resumed"]["resume"]
        cases[s, "moved"] = cases[NEXT[s], "straight"] | {"resume": cut, "steps": 3, "save": str(folder / f"{s}-moved")}
        cases[s, "continued elsewhere"] = cases[NEXT[s], "straight"] | {"resume": cut, "save": None}
    (folder / "cases.json").write_text(json.dumps(list(cases.values())))
    done = run_ranks(2, "tests.train_cases", str(folder / "cases.json"))
    return dict(zip(cases, done, strict=True))


def tensors(answer: dict[str, Any], step: int) -> dict[str, bytes]:
    """Returns the bytes of every whole tensor of the checkpoint that a case saved."""
    from distft.checkpoint.read import Checkpoint

    checkpoint = Checkpoint(step_dir(Path(answer["case"]["save"]), step))
    found = {}
    for (slot, name), chunks in checkpoint.chunks.items():
        count = sum(stored.count for _, stored in chunks)
        found[f"{slot} {name}"] = checkpoint.read(name, (), 0, count, slot).numpy().tobytes()
    return found | {"scalars": json.dumps(checkpoint.manifest["scalars"], sort_keys=True).encode()}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(strategy: str, answers: Any) -> None:
    straight, resumed = answers[strategy, "straight"], answers[strategy, "resumed"]
    assert resumed["steps"] == straight["steps"][3:]
    assert tensors(resumed, 5) == tensors(straight, 5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_another_strategy_takes_over_weights_and_moments_bit_for_bit(strategy: str, answers: Any) -> None:
    before, after = tensors(answers[strategy, "cut"], 3), tensors(answers[strategy, "moved"], 3)
    assert after == before
    continued = answers[strategy, "continued elsewhere"]["steps"]
    for mine, straight in zip(continued, answers[strategy, "straight"]["steps"][3:], strict=True):
        assert mine == pytest.approx(straight, rel=2e-6)
