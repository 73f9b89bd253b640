"""`distft evaluate`: evaluates a checkpoint of a run on its held-out rows, with the run's strategy and processes."""

import sys
from pathlib import Path

from distft.config import ConfigError, command, frozen_text, read_config
from distft.config.command import find_run, keywords, usage
from distft.launchers.local import Local, LocalConfig
from distft.run import RunFolder, read_json
from distft.tasks import load_task
from distft.tasks.shown import metric_names, metric_text
from distft.tensors.integrity import Damaged

KEYS = {"run": "the run's folder", "at": "latest (default), best or step-N"}
CLAIM = "Writes RUN/eval/CHECKPOINT/metrics.json: the loss per unit of the run's task, and the task's metrics."


def main(arguments: list[str]) -> int:
    """Prints the metrics and returns 0; 1 with the first failing rank when the evaluation failed."""
    given = keywords(arguments, KEYS, required=("run",))
    run = find_run(given["run"])
    if not run.read_plan().eval_rows:
        raise ConfigError([f"run={given['run']}: has no held-out rows (data.eval was null). Try: a run with data.eval"])
    from distft.checkpoint.retention import reading

    checkpoint = find_checkpoint(run, given.get("at", "latest"))
    try:
        with reading(checkpoint):  # a run that goes on meanwhile does not delete it
            job = freeze(run, checkpoint)
            [handle] = Local(LocalConfig()).submit([job.path])
            while (outcome := handle.wait(0.2)) is None:
                pass
    except Damaged as error:
        print(f"{run.path} was not evaluated: {error}", file=sys.stderr)
        return 1
    if outcome.error:
        print(f"{job.path} failed: {outcome.error['type']}: {outcome.error['message']}", file=sys.stderr)
        print(f"  log: {outcome.error['log']}", file=sys.stderr)
        return 1
    metrics = read_json(job.path / "metrics.json")
    unit = load_task(read_config(run).model.task).unit
    what = "target tokens" if unit == "token" else f"{unit}s"
    print(f"{run.path.name} at {job.path.name}, {metrics['target_tokens']:,} {what} held out:")
    numbers = [f"{name} {metric_text(name, metrics[name])}" for name in ("loss", *metric_names(metrics))]
    print("  " + "  ".join(numbers))
    print(f"  {job.path / 'metrics.json'}")
    return 0


def find_checkpoint(run: RunFolder, at: str) -> Path:
    """Returns the checkpoint that the user means; ConfigError names those there are."""
    from distft.checkpoint.choose import choose

    try:
        return choose(run.checkpoints, at)
    except ValueError as error:
        raise ConfigError([str(error)]) from error


def freeze(run: RunFolder, checkpoint: Path) -> RunFolder:
    """Returns the folder of this evaluation: the run's frozen config with the checkpoint named in it."""
    config = read_config(run).changed({"checkpoint.resume": str(checkpoint), "work": "distft.worker.evaluate"})
    job = RunFolder(run.eval / checkpoint.name)
    job.path.mkdir(parents=True, exist_ok=True)
    job.config.write_text(frozen_text(config))
    job.write_plan(run.read_plan())
    job.write_status(state="pending", attempt=job.read_status()["attempt"] + 1, error=None)
    return job


if __name__ == "__main__":
    command(main, help=usage("evaluate", KEYS, CLAIM))
