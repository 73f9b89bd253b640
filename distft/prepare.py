"""The data stage as a command: fetches what is on the hub, and makes token shards of the rows, once per content.

Runs before the processes that train, without an accelerator and without collectives: whatever is wrong with the data is
said here, not on a machine that was waited for.
"""

import time
from typing import Any

from rich.console import Console

from distft.config import ConfigError, command, compose
from distft.config.model_folder import facts_of, wrong_model
from distft.data.hub import local_folder
from distft.data.key import tokenizer_dir
from distft.data.report import summary
from distft.data.stage import make_ready
from distft.data.tokenize import load_tokenizer
from distft.model_check.verdict import keep_verdict, kept_verdict, wrong_by_verdict
from distft.tensors.weight_files import wrong_weights

SLOW_SECONDS = 2.0


def main(overrides: list[str]) -> int:
    """Prepares model, tokenizer and data of a config, or says everything that is wrong with them (exit code 2)."""
    values = compose(overrides).values
    started = time.monotonic()
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    prepared = make_ready(values, _Progress(console), lambda: check_model(values, console))
    how = "was there already" if prepared.reused else f"took {time.monotonic() - started:.1f} s"
    console.print(f"prepared data {prepared.folder.name} {how}", markup=False)
    for line in summary(prepared.report, prepared.folder):
        console.print(f"  {line}", markup=False)
    return 0


def check_model(values: dict[str, Any], console: Console) -> None:
    """Raises ConfigError where the base model cannot be trained: by its files, its tokenizer and what is measured.

    That takes some seconds, mostly to load torch, once for a model.
    """
    model, cache_dir = values["model"], values["cache_dir"]
    if model["tiny"]:
        return
    folder = local_folder(model["path"], model["revision"], cache_dir)
    wrong = list(wrong_model(folder, trust_remote_code=model["trust_remote_code"]))
    if not wrong:
        tokens = len(load_tokenizer(tokenizer_dir(values), model["trust_remote_code"]))
        wrong = list(wrong_weights(folder, facts_of(folder), values["data"]["max_length"], tokens))
    if not wrong and kept_verdict(folder, cache_dir) is None:
        from distft.model_check.architecture import check_folder

        started = time.monotonic()
        found = check_folder(folder)
        keep_verdict(folder, cache_dir, found)
        console.print(f"checked model {folder.name} in {time.monotonic() - started:.1f} s", markup=False)
    if not wrong:
        wrong = wrong_by_verdict(folder, cache_dir)
    if wrong:
        raise ConfigError(wrong)


class _Progress:
    """One line on a terminal once the work turns out to be slow."""

    def __init__(self, console: Console) -> None:
        self.console, self.started, self.shown = console, time.monotonic(), 0.0

    def __call__(self, rows: int) -> None:
        now = time.monotonic()
        if not self.console.is_terminal or now - self.started < SLOW_SECONDS or now - self.shown < 0.2:
            return
        self.shown = now
        self.console.print(f"preparing: {rows:,} rows read, {rows / (now - self.started):,.0f} rows/s", end="\r")


if __name__ == "__main__":
    command(main)
