"""Every script in launch/ is one valid run or sweep, and short."""

import re
from pathlib import Path

import pytest

from tests.support.shell import shell

SCRIPTS = sorted((Path(__file__).parents[1] / "launch").glob("*.sh"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_three_to_ten_lines_and_one_launch(script: Path):
    text = script.read_text()
    assert script.stat().st_mode & 0o111, "not executable"
    assert 3 <= len(text.splitlines()) <= 10
    assert len(re.findall(r"python -m distft\.launch", text)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_plans_its_run(script: Path, tmp_path: Path, demo_dir: Path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n' * 400)
    done = shell(
        f"TMPDIR=$PWD {script} {rows}" if '"$1"' in script.read_text() else f"TMPDIR=$PWD {script}",
        tmp_path,
        as_plan=True,
    )
    assert done.returncode == 0, done.stderr
    assert "steps" in done.stdout


@pytest.mark.slow
def test_every_point_of_a_sweep_is_planned(tmp_path: Path, checkout: Path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 400)
    script = f"{checkout}/launch/lr_sweep.sh rows.jsonl"
    done = shell(script, tmp_path, as_plan=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split("│")[1].strip() for line in done.stdout.splitlines() if line.startswith("│")]
    assert len(lines) == 9 and lines[0] == "000-optimizer.lr_1e-05-seed_0"
    wrong = shell(f"{script} train.micro_batch_size=4 train.global_batch_size=16,18", tmp_path, as_plan=True)
    assert wrong.returncode == 2 and "train.global_batch_size=18 is not a multiple" in wrong.stderr
