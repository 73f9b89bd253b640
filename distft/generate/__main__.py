"""`distft generate`: answers prompts with any checkpoint of a run, its base model, or an exported folder."""

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from distft.config import ConfigError, command
from distft.config.command import keywords, usage
from distft.generate.job import STATISTICS, count_answers, freeze, read_answers
from distft.generate.prompts import Request, held_out_prompts, read_prompts, too_long
from distft.generate.settings import Settings, parse, without_stop
from distft.generate.source import Source, find_text_source
from distft.launch.command_job import HELP, job_of, mounts_of, run_as_job, split_launcher, with_paths
from distft.launchers.local import Local, LocalConfig
from distft.paths import absolute, why_not_writable
from distft.run import RunFolder, json_text, read_json

KEYS = {
    "run": "the run's folder, or an exported folder",
    "at": "latest (default), best, step-N, or base: the model before training",
    "prompts": "a JSONL file of objects with prompt or messages, and optionally id; or eval: the held-out rows",
    "out": "the JSONL file to write; replaced when it exists",
    "max_new_tokens": f"tokens of an answer at most (default {Settings.max_new_tokens})",
    "temperature": "0 (default): greedy; above: sampled",
    "top_p": "sample from the likeliest tokens that have this probability together (default 1)",
    "top_k": "sample from so many likeliest tokens; 0 (default): all",
    "seed": "of sampling (default 0); an answer depends on seed, prompt and its place in the file alone",
    "stop": 'a text that ends an answer, or several: ["###", "Q:"]',
    "batch_size": f"prompts per forward of a process (default {Settings.batch_size})",
    "strategy": "how the model is spread over the processes (default: the run's)",
    "precision": "auto, fp32 or bf16 (default: the run's)",
    "launcher.processes_per_node": "processes on the machine, or auto (default: the run's)",
    **HELP,
}
PATHS = ("run", "prompts", "out")  # keys whose values are files here
CLAIM = """Writes one object a line, in the order of the prompts:
{"prompt", "completion", "tokens", "stopped"}, stopped: eos, length or stop; tokens: generated, with the end token.
The text is the same for every batch size and number of processes, up to rounding."""


def main(arguments: list[str]) -> int:
    """Writes the answers and returns 0; 1 with the first failing rank when generation failed."""
    words, launcher, errors = split_launcher(arguments)
    try:
        given = keywords(words, KEYS, required=("run", "prompts", "out"))
    except ConfigError as error:
        raise ConfigError([*errors, *error.messages]) from error
    settings, more = parse(given)
    errors += more
    out = absolute(given["out"])
    if why := (f"{out} is a folder" if out.is_dir() else why_not_writable(out.parent)):
        errors.append(f"out={given['out']}: {why}. Try: out=answers.jsonl")
    if errors:
        raise ConfigError(errors)
    source = find_text_source(given["run"], given.get("at"), given)
    requests = find_prompts(source, given["prompts"])
    if long := too_long(requests, source.positions):
        raise ConfigError(long)
    if launcher is not None:
        job = job_of(source.config, source.plan, launcher, mounts_of(words, PATHS))
        return run_as_job("generate", with_paths(words, PATHS), absolute(given["run"]), job)
    for note in source.notes:
        print(f"note: {note}")
    folder = Path(tempfile.mkdtemp(prefix="distft-generate-"))
    job = freeze(folder / "job", source, [request.token_ids for request in requests], settings)
    if not answered(job, source, len(requests)):
        return 1
    write_answers(out, source, requests, settings, job)
    about = read_json(job.path / STATISTICS)
    speed = about["tokens"] / max(about["seconds"], 1e-9)
    answers = f"{len(requests):,} answer{'s' * (len(requests) != 1)}"
    print(f"{source.name}: {answers}, {about['tokens']:,} tokens, {speed:,.0f} tokens/s")
    print(f"  {out}")
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def find_prompts(source: Source, where: str) -> list[Request]:
    """Returns the prompts of a file, or of the held-out rows; ConfigError when there are none."""
    if where != "eval":
        return read_prompts(absolute(where), source.render)
    if source.held_out is None:
        gone = source.plan.eval_rows and f"the prepared rows are gone ({source.plan.data_dir})"
        raise ConfigError([f"prompts=eval: {gone or source.name + ' has no held-out rows'}. Try: prompts=FILE.jsonl"])
    return list(held_out_prompts(source.held_out, source.render))


def answered(job: RunFolder, source: Source, count: int) -> bool:
    """Runs the job with a progress bar; returns False after printing why it failed."""
    from contextlib import nullcontext

    from distft.checkpoint.retention import reading
    from distft.tensors.integrity import Damaged

    console = Console(file=sys.stderr)
    columns = (TextColumn("generating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with (
            reading(source.checkpoint) if source.checkpoint else nullcontext(),  # a run that goes on does not delete it
            Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
        ):
            task = progress.add_task("generating", total=count)
            [handle] = Local(LocalConfig()).submit([job.path])
            while (outcome := handle.wait(0.2)) is None:
                progress.update(task, completed=count_answers(job))
    except Damaged as error:
        print(f"no answers: {error}", file=sys.stderr)
        return False
    if outcome.error:
        print(f"{job.path} failed: {outcome.error['type']}: {outcome.error['message']}", file=sys.stderr)
        print(f"  log: {outcome.error['log']}", file=sys.stderr)
        return False
    return True


def write_answers(out: Path, source: Source, requests: Sequence[Request], settings: Settings, job: RunFolder) -> None:
    """Writes the answers in the order of the prompts by one rename; RuntimeError when one is missing."""
    answers = {answer.index: answer for answer in read_answers(job)}
    if len(answers) != len(requests):
        raise RuntimeError(f"{job.path} has {len(answers)} answers to {len(requests)} prompts")
    lines = []
    for index, request in enumerate(requests):
        answer = answers[index]
        kept = answer.token_ids[:-1] if answer.stopped == "eos" else answer.token_ids
        row = dict(request.given)
        row.setdefault("prompt", source.render.decode(request.token_ids, special=True))
        row["completion"] = without_stop(source.render.decode(kept), settings.stop)
        row |= {"tokens": len(answer.token_ids), "stopped": answer.stopped}
        lines.append(row if request.expected is None else row | {"expected": request.expected})
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    partial.write_text("".join(json_text(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    partial.replace(out)


if __name__ == "__main__":
    command(main, help=usage("generate", KEYS, CLAIM))
