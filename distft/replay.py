"""Repeats a step of a run up to its gradient, and names the micro-batches and rows whose loss is not finite."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from distft.checkpoint.choose import candidates
from distft.config import ConfigError, command, frozen_text, read_config
from distft.config.command import find_run, keywords, usage
from distft.launchers.local import Local, LocalConfig
from distft.run import Plan, RunFolder, read_json, write_json

KEYS = {"run": "the run's folder", "step": "a step that RUN/batches/ has a file of"}
CLAIM = (
    "Starts from the newest checkpoint before the step, with the run's strategy; writes RUN/replay/step-N/step.json."
)
WORK = "distft.verify_resume.replay_step.replay"


def main(arguments: list[str]) -> int:
    """Prints loss and gradient norm of the step and returns 0; 1 when it failed."""
    given = keywords(arguments, KEYS, required=("run", "step"))
    run = find_run(given["run"])
    job = freeze(run, find_batch(run, given["step"]))
    [handle] = Local(LocalConfig()).submit([job.path])
    while (outcome := handle.wait(0.2)) is None:
        pass
    if outcome.error:
        print(f"{job.path} failed: {outcome.error['type']}: {outcome.error['message']}", file=sys.stderr)
        print(f"  log: {outcome.error['log']}", file=sys.stderr)
        return 1
    print("\n".join(described(read_json(job.path / "step.json"))))
    print(f"  {job.path / 'step.json'}")
    return 0


class Batch(TypedDict):
    """The part of RUN/batches/step-N.json that a replay reads; `plan` has the fields of distft.run.Plan."""

    step: int
    plan: Mapping[str, object]


def find_batch(run: RunFolder, step: str) -> Batch:
    """Returns the record of a step; ConfigError lists the recorded steps."""
    there = {int(file.stem.removeprefix("step-")): file for file in sorted((run.path / "batches").glob("step-*.json"))}
    if not step.isdigit() or int(step) not in there:
        steps = ", ".join(map(str, there)) or "none"
        raise ConfigError([f"step={step}: this step has no record in RUN/batches. Allowed: {steps}"])
    return read_json(there[int(step)])


def freeze(run: RunFolder, batch: Batch) -> RunFolder:
    """Returns the folder of the replay: the run's frozen config and the plan that the step had."""
    config, plan = read_config(run), Plan.of(batch["plan"])
    start = start_of(run, config.checkpoint.resume, batch["step"])
    job = RunFolder(run.path / "replay" / f"step-{batch['step']}")
    job.path.mkdir(parents=True, exist_ok=True)
    job.config.write_text(frozen_text(config.changed({"checkpoint.resume": str(start or "never"), "work": WORK})))
    job.write_plan(plan)
    write_json(job.path / "batch.json", batch)
    job.write_status(state="pending", attempt=job.read_status()["attempt"] + 1, exit_code=None, error=None)
    return job


def start_of(run: RunFolder, resume: str, step: int) -> Path | None:
    """Returns the newest checkpoint before a step; None: the base model."""
    before = [f for f in candidates(run.checkpoints, "auto") if int(f.name.removeprefix("step-")) < step]
    outside = [Path(resume)] if resume not in ("auto", "never") else []
    return next(iter([*before, *outside]), None)


def described(step: Mapping[str, Any]) -> list[str]:
    """Describes step.json in lines."""
    lines = [f"step {step['step']}: loss {step['loss']}, gradient norm {step['grad_norm']}"]
    for each in step["micro_batches"]:
        if not each["is_finite"]:
            lines.append(f"  micro-batch {each['micro_batch']} of rank {each['rank']}: loss {each['loss']}")
            lines += [f"    row {row['row']} ({row['id']}): loss {row['loss']}" for row in each["rows"]]
    if all(each["is_finite"] for each in step["micro_batches"]):
        lines.append("  the loss of every micro-batch is finite")
    return lines


if __name__ == "__main__":
    command(main, help=usage("replay", KEYS, CLAIM))
