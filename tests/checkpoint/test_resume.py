"""A checkpoint continues a run: bitwise on the same layout, and on another strategy or world with the same state.

Every strategy hands over to three others: on 2 processes, from 1 to 2, and from 2 to 1.
"""

import json
from math import prod
from pathlib import Path
from typing import Any

import pytest

from distft.checkpoint.format import step_dir
from distft.paths import conf_dir
from tests.ranks import run_ranks
from tests.rows import write_rows

STRATEGIES = sorted(path.stem for path in (conf_dir() / "strategy").glob("*.yaml"))


def after(strategy: str, places: int) -> str:
    return STRATEGIES[(STRATEGIES.index(strategy) + places) % len(STRATEGIES)]


def run_cases(world: int, cases: dict[Any, dict[str, Any]], folder: Path) -> dict[Any, dict[str, Any]]:
    spec = folder / "cases.json"
    spec.write_text(json.dumps(list(cases.values())))
    return dict(zip(cases, run_ranks(world, "tests.train_cases", str(spec)), strict=True))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    """Runs each strategy straight over 5 steps and cut after 3, then continued: by itself, and by others elsewhere."""
    folder = tmp_path_factory.mktemp("resume")
    shared = {"model": "qwen3_8b", "micro": 2, "rows": str(write_rows(folder / "rows"))}

    def case(strategy: str, **more: Any) -> dict[str, Any]:
        settings = {"shard_size": 1} if strategy == "hsdp" and more.pop("world", 2) == 1 else {}
        more.pop("world", None)
        return shared | {"strategy": strategy, "settings": settings} | more

    def cut(strategy: str, world: int) -> str:
        return str(folder / f"{strategy}-{world}-cut")

    def resumed(strategy: str, world: int) -> str:
        return str(step_dir(Path(cut(strategy, world)), 3))

    def moved(name: str, source: str, source_world: int, strategy: str, world: int) -> dict[Any, dict[str, Any]]:
        start = {"resume": resumed(source, source_world), "world": world}
        return {
            (source, name): case(strategy, steps=3, save=str(folder / f"{source}-{name}"), **start),
            (source, f"{name}, continued"): case(strategy, **start),
        }

    one = {(s, "cut on 1"): case(s, steps=3, save=cut(s, 1), world=1) for s in STRATEGIES}
    done = run_cases(1, one, folder)
    two: dict[Any, dict[str, Any]] = {}
    for s in STRATEGIES:
        two[s, "straight"] = case(s, save=str(folder / f"{s}-straight"))
        two[s, "cut on 2"] = case(s, steps=3, save=cut(s, 2))
        two[s, "resumed"] = case(s, resume=resumed(s, 2), save=str(folder / f"{s}-resumed"))
    for s in STRATEGIES:
        two |= moved("2 to 2", s, 2, after(s, 1), 2) | moved("1 to 2", s, 1, after(s, 2), 2)
    done |= run_cases(2, two, folder)
    back: dict[Any, dict[str, Any]] = {}
    for s in STRATEGIES:
        back |= moved("2 to 1", s, 2, after(s, 3), 1)
    return done | run_cases(1, back, folder)


def tensors(answer: dict[str, Any], step: int) -> dict[str, bytes]:
    """Returns the bytes of every whole tensor of the checkpoint that a case saved."""
    from distft.checkpoint.read import Checkpoint

    checkpoint = Checkpoint(step_dir(Path(answer["case"]["save"]), step))
    found = {}
    for (slot, name), shape in checkpoint.shapes.items():
        found[f"{slot} {name}"] = checkpoint.read(name, shape, 0, prod(shape), slot).numpy().tobytes()
    return found


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(strategy: str, answers: Any) -> None:
    straight, resumed = answers[strategy, "straight"], answers[strategy, "resumed"]
    assert resumed["steps"] == straight["steps"][3:]
    assert tensors(resumed, 5) == tensors(straight, 5)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("move", ["2 to 2", "1 to 2", "2 to 1"])
def test_another_strategy_and_world_takes_over_bit_for_bit(strategy: str, move: str, answers: Any) -> None:
    before, after = tensors(answers[strategy, f"cut on {move[0]}"], 3), tensors(answers[strategy, move], 3)
    assert after == before
    continued = answers[strategy, f"{move}, continued"]["steps"]
    for mine, straight in zip(continued, answers[strategy, "straight"]["steps"][3:], strict=True):
        assert mine == pytest.approx(straight, rel=2e-6)
