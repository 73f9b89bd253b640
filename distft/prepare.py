"""`distft prepare`: fetches model and data from the hub, checks the model, and tokenizes the rows into shards.

It runs before training, without accelerator and collectives, so that errors in the data appear before a machine is
requested.
"""

import time

from rich.console import Console

from distft.config import Config, ConfigError, command, compose
from distft.config.model_folder import facts_of, wrong_model
from distft.data.hub import local_folder
from distft.data.key import tokenizer_dir
from distft.data.report import summary
from distft.data.stage import ensure_prepared
from distft.data.tokenize import load_tokenizer
from distft.model_check.verdict import read_verdict, verdict_errors, write_verdict
from distft.tensors.weight_files import weight_errors

SLOW_SECONDS = 2.0


def main(overrides: list[str]) -> int:
    """Prepares model, tokenizer and data of a config, or reports all of their errors (exit code 2)."""
    config = compose(overrides)
    started = time.monotonic()
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    prepared = ensure_prepared(config, _Progress(console), lambda: check_model(config, console))
    how = "was cached" if prepared.reused else f"took {time.monotonic() - started:.1f} s"
    console.print(f"prepared data {prepared.folder.name} {how}", markup=False)
    for line in summary(prepared.report, prepared.folder):
        console.print(f"  {line}", markup=False)
    return 0


def check_model(config: Config, console: Console) -> None:
    """Raises ConfigError where files, tokenizer or the measured model check show that the model cannot be trained.

    The check takes some seconds, mostly to load torch; its result is cached per model.
    """
    model, cache_dir = config.model, config.cache_dir
    if model.tiny:
        return
    folder = local_folder(model.path, model.revision, cache_dir)
    wrong = list(wrong_model(folder, trust_remote_code=model.trust_remote_code))
    if not wrong:
        tokens = len(load_tokenizer(tokenizer_dir(config), model.trust_remote_code))
        wrong = list(weight_errors(folder, facts_of(folder), config.data.max_length, tokens))
    if not wrong and read_verdict(folder, cache_dir) is None:
        from distft.model_check.architecture import check_folder

        started = time.monotonic()
        found = check_folder(folder)
        write_verdict(folder, cache_dir, found)
        console.print(f"checked model {folder.name} in {time.monotonic() - started:.1f} s", markup=False)
    if not wrong:
        wrong = verdict_errors(folder, cache_dir)
    if wrong:
        raise ConfigError(wrong)


class _Progress:
    """Prints a progress line on a terminal after SLOW_SECONDS."""

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
