"""`distft find_lr [OVERRIDES] [steps=100] [low=] [high=] [out=DIR]`: tries rising learning rates, and suggests one."""

import shutil
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console

from distft.config import Config, ConfigError, command, compose, help_text
from distft.config.command import keywords
from distft.config.freeze import frozen_text
from distft.find_lr.suggestion import LEAST_STEPS, MEASURED, RAMP, Measured, Ramp, Suggestion, smoothed, suggest
from distft.launch.stages import check_devices, check_writable, make_part, prepare
from distft.paths import absolute, unused
from distft.plan import make_plan
from distft.report.curves import PAPER, frame, save
from distft.run import Plan, RunFolder, read_json, write_json
from distft.runtime.logs import last_lines
from distft.runtime.process import exits_on
from distft.trackers.terminal import screen

KEYS = {
    "steps": "optimizer steps of the ramp; default: 100",
    "low": "first learning rate; default: optimizer.lr / 1000",
    "high": "last learning rate; default: optimizer.lr x 1000",
    "out": "folder for find_lr.json, find_lr.png and find_lr.svg; default: RUNS_DIR/find_lr",
}
WORK = "distft.find_lr.ramp.measure"
FOLDER = ".find_lr"  # of the job, deleted at the end: it is no run


def main(arguments: list[str]) -> int:
    """Returns 0 with the suggestion printed and written, or words why none is possible; 1 when the steps failed."""
    with exits_on(signal.SIGINT, signal.SIGTERM):
        return find_lr(arguments)


def find_lr(arguments: list[str]) -> int:
    """Measures the ramp's steps, then writes and prints what they show."""
    own = keywords([text for text in arguments if text.partition("=")[0] in KEYS], KEYS, required=())
    overrides = [text for text in arguments if text.partition("=")[0] not in KEYS]
    config = compose(overrides)
    steps = number_of("steps", own.get("steps", "100"), int)
    low = number_of("low", own.get("low", str(config.optimizer.lr / 1000)), float)
    high = number_of("high", own.get("high", str(config.optimizer.lr * 1000)), float)
    out = absolute(own.get("out") or str(unused(absolute(config.runs_dir) / "find_lr")))
    errors = [f"steps={steps}: fewer than {LEAST_STEPS} show no slope. Try: steps=100"] if steps < LEAST_STEPS else []
    errors += [f"low={low:g} is not below high={high:g}. Try: high={1e4 * low:g}"] if low >= high else []
    errors += [f"out={out}: exists already. Try: out={unused(out)}"] if out.exists() else []
    if errors:
        raise ConfigError(errors)
    check_writable(out.parent)
    check_devices(config)
    prepare(config, overrides)
    config = of_the_ramp(config, steps)
    console = screen(sys.stdout)
    console.print(f"{steps} steps, learning rate from {low:.2g} to {high:.2g}")
    measured = run_ramp(config, make_plan(config), {"low": low, "high": high}, out)
    if measured is None:
        return 1
    losses = [float(loss) for loss in measured["losses"]]
    found = suggest(measured["rates"], losses, measured["diverged"])
    write_json(out / "find_lr.json", {**asdict(found), **measured})
    draw(measured["rates"], losses, found, out)
    report(found, out, console)
    return 0


def number_of(key: str, text: str, kind: type[int] | type[float]) -> Any:
    """Returns a positive number; ConfigError for anything else."""
    try:
        number = kind(text)
    except ValueError:
        number = 0
    if not 0 < number < float("inf"):
        raise ConfigError([f"{key}={text} is not a {'whole ' * (kind is int)}number above 0"])
    return number


def of_the_ramp(config: Config, steps: int) -> Config:
    """Returns the config of the ramp's training: so many steps from the base model, nothing saved or evaluated."""
    changed = {"train.max_steps": steps, "train.epochs": None, "checkpoint.resume": "never", "work": WORK}
    return config.changed(changed | {"train.ema_decay": None, "eval.samples": 0, "export.enabled": False})


def run_ramp(config: Config, plan: Plan, ramp: Ramp, out: Path) -> Measured | None:
    """Runs the steps with the run's launcher; returns what its ranks measured, None with the error printed."""
    job = RunFolder(out / FOLDER)
    job.path.mkdir(parents=True)
    try:
        job.config.write_text(frozen_text(config))
        job.write_plan(plan)
        write_json(job.path / RAMP, ramp)
        job.write_status(state="pending", attempt=1, error=None)
        [handle] = make_part(config, "launcher").submit([job.path])
        try:
            while (outcome := handle.wait(0.2)) is None:
                pass
        except BaseException:  # a signal too
            handle.cancel()
            raise
        if outcome.error is None and (job.path / MEASURED).is_file():
            return read_json(job.path / MEASURED)
        error = outcome.error or {"type": outcome.state, "message": "the ramp did not end", "log": None}
        console = screen(sys.stderr)
        console.print(f"find_lr failed: {error['type']}: {error['message']}")
        console.print("\n".join(last_lines(Path(error["log"]), 20)) if error["log"] else "")
        return None
    finally:
        shutil.rmtree(job.path, ignore_errors=True)
        if not any(out.iterdir()):
            out.rmdir()


def draw(rates: list[float], losses: list[float], found: Suggestion, out: Path) -> None:
    """Writes the losses over the rates as find_lr.png and find_lr.svg."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    finite = [(rate, loss) for rate, loss in zip(rates, losses, strict=True) if loss < float("inf")]
    kept, curve = [rate for rate, _ in finite], smoothed([loss for _, loss in finite])
    axes.plot(kept, [loss for _, loss in finite], ".", color=PAPER.train, alpha=0.6, label="loss of a step")
    axes.plot(kept, curve, color=PAPER.train, linewidth=1.8, label="smoothed")
    if found.rate:
        axes.axvline(found.rate, color=PAPER.eval, linewidth=1.6, label=f"suggested: {found.rate:g}")
    axes.set_xscale("log")
    if curve:
        low, high = min(curve), max(curve[: max(10, len(curve) // 2)])
        axes.set_ylim(low - 0.15 * (high - low) - 1e-6, high + 0.5 * (high - low) + 1e-6)
    axes.set_xlabel("learning rate", fontsize=9, color=PAPER.text)
    frame(axes, "Learning-rate range test: training loss", PAPER)
    axes.legend(frameon=False, fontsize=9, labelcolor=PAPER.text)
    save(figure, out / "find_lr")


def report(found: Suggestion, out: Path, console: Console) -> None:
    """Prints the suggestion, or why there is none."""
    if found.rate is None:
        console.print(f"no suggestion: {found.why}")
    else:
        console.print(f"suggested: optimizer.lr={found.rate:g} ({found.why})")
    if found.diverged_at is not None:
        console.print(f"the loss diverged at {found.diverged_at:.2g}")
    console.print(f"  {out / 'find_lr.png'}")


if __name__ == "__main__":
    command(main, help=help_text("find_lr", [(f"{key}=", text) for key, text in KEYS.items()]))
