"""`distft plan calibrate` measures this machine, so that a plan's time is that of a run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distft.plan.hardware import find_hardware

ROWS = 400


@pytest.mark.soak
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_takes_the_time_that_was_planned(processes: int, demo_dir: Path, tmp_path: Path) -> None:
    """Within a third: the speed of a shared machine varies by as much between two measurements."""
    file = tmp_path / "rows.jsonl"
    words = "the quick brown fox jumps over the lazy dog and runs home again ".split()
    with file.open("w") as rows:
        for i in range(ROWS):
            text = " ".join(words[(i * j) % len(words)] for j in range(50 + i % 250))
            rows.write(json.dumps({"text": text}) + "\n")
    typed = [
        "model=smollm2_135m", f"model.path={demo_dir}/smollm2-135m-instruct", f"data.train={file}", "data.eval=null",
        "eval=none", "data.max_length=1024", "train.micro_batch_tokens=1024", "train.global_batch_size=6",
        "train.max_steps=4", "export=false", f"runs_dir={tmp_path}", f"cache_dir={tmp_path}/cache", "name=run",
        f"launcher.processes_per_node={processes}",
    ]  # fmt: skip
    hardware = tmp_path / "hardware.yaml"
    calibrate = [sys.executable, "-m", "distft.plan", "calibrate", f"out={hardware}", f"processes={processes}"]
    subprocess.run(calibrate, check=True)
    assert find_hardware(str(hardware)).accelerator is False
    subprocess.run([sys.executable, "-m", "distft.launch", *typed], check=True, env=os.environ)
    plan = [sys.executable, "-m", "distft.plan", *typed, f"hardware={hardware}", "--json"]
    planned = json.loads(subprocess.run(plan, check=True, capture_output=True, text=True).stdout)
    steps = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    steps = [row for row in steps if row["split"] == "train"]
    assert planned["flops"] == pytest.approx(sum(row["flops"] for row in steps), rel=1e-6)
    speed = sum(row["tokens"] for row in steps[1:]) / sum(row["seconds"] for row in steps[1:])
    print(f"{processes} processes: planned {planned['tokens_per_second']:.1f}, measured {speed:.1f} tokens/s")
    assert planned["tokens_per_second"] == pytest.approx(speed, rel=0.33)
