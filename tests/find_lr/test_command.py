"""`distft find_lr` trains real steps on the run's strategy, draws them, suggests a rate, and leaves no run behind."""

from pathlib import Path
from typing import Any

import pytest

from distft.config import ConfigError
from distft.find_lr import __main__ as find_lr
from distft.find_lr.ramp import rate_at
from distft.run import read_json
from distft.runs.facts import find_runs
from tests.support.rows import write_sums

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm")]


def arguments(folder: Path, *more: str) -> list[str]:
    places = [f"data.train={folder / 'rows.jsonl'}", f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}"]
    settings = ["model=gpt2", "model.tiny=true", "data.eval=0.2", "train.global_batch_size=8", "strategy=fsdp"]
    return [*places, *settings, "launcher.processes_per_node=2", *more]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sums(tmp_path_factory.mktemp("ramp"))


def test_the_ramp_ends_at_divergence_with_a_suggestion(folder: Path, capsys: Any) -> None:
    assert find_lr.main(arguments(folder, "steps=60", "low=1e-5", "high=30", f"out={folder / 'found'}")) == 0
    said = capsys.readouterr().out
    found = read_json(folder / "found" / "find_lr.json")
    rates, losses = found["rates"], [float(loss) for loss in found["losses"]]
    assert found["diverged"] and len(rates) == len(losses) < 60 and found["diverged_at"] == rates[-1]
    expected = [rate_at(step, 60, {"low": 1e-5, "high": 30.0}) for step in range(1, len(rates) + 1)]
    assert rates == expected and rates[0] == 1e-5
    assert rates[0] < found["rate"] <= rates[-1] / 10 * 1.05 and f"suggested: optimizer.lr={found['rate']:g}" in said
    assert sorted(path.name for path in (folder / "found").iterdir()) == ["find_lr.json", "find_lr.png", "find_lr.svg"]
    assert find_runs(folder) == [] == find_runs(folder / "runs"), "nothing that looks like a run"


def test_a_failed_ramp_is_reported_and_leaves_nothing(folder: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(find_lr, "WORK", "distft.find_lr.ramp.missing")
    assert find_lr.main(arguments(folder, "steps=20", f"out={folder / 'failed'}")) == 1
    assert "find_lr failed" in capsys.readouterr().err and not (folder / "failed").exists()


def test_wrong_arguments_are_refused_all_at_once(folder: Path) -> None:
    (folder / "there").mkdir()
    with pytest.raises(ConfigError) as caught:
        find_lr.main(arguments(folder, "steps=3", "low=1", "high=0.1", f"out={folder / 'there'}"))
    assert [message.partition(" ")[0] for message in caught.value.messages] == [
        "steps=3:",
        "low=1",
        f"out={folder / 'there'}:",
    ]
    with pytest.raises(ConfigError, match="steps=many is not a whole number above 0"):
        find_lr.main(arguments(folder, "steps=many"))
