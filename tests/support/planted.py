"""Plants faults in a copy of the code, one at a time, and reports which test detects each.

Run by hand; it takes an hour.

`python -m tests.support.planted [NAME...] [keys]` plants all faults of tests/support/faults.txt, or those whose name
contains one of the words. `keys` also ignores each key of the schema, one at a time, and runs the test that
tests/test_every_key.py names for it. The last column of the table is the first test that failed. The exit code is 1 if
a fault was not detected.
"""

import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
IN_A_RUN = {  # tests of tests/test_worker.py, by a word
    "adamw": "test_adamw_warm_up_clipping_and_smoothing_match_a_plain_loop",
    "sgd": "test_sgd_with_momentum_unclipped_matches_a_plain_loop",
    "clipped": "test_a_clipped_step_moves_the_weights_by_rate_times_norm",
    "cosine": "test_the_learning_rate_follows_half_a_cosine",
    "epochs": "test_row_steps_read_each_row_once_per_epoch",
    "tokens": "test_token_steps_and_micro_batches_are_maximally_full",
    "counts": "test_tokens_are_the_sum_of_row_lengths",
    "flops": "test_flops_follow_the_formula",
    "seeds": "test_every_forward_of_a_step_has_its_own_seed",
    "dropout": "test_dropout_changes_training_and_no_evaluation",
    "weights": "test_the_seed_decides_the_first_weights",
    "order": "test_the_seed_decides_which_rows_a_step_reads",
    "due": "test_evaluations_happen_exactly_when_due",
    "evaluation": "test_evaluation_reads_every_row_once_in_its_batch_size",
    "longest": "test_the_oom_probe_runs_once_after_the_first_step",
    "recomputing": "test_activation_checkpointing_runs_the_layers_twice",
    "kept": "test_checkpoints_are_kept_as_configured",
    "best": "test_the_best_checkpoint_has_the_lowest_held_out_loss",
    "metric": "test_the_metric_and_the_goal_decide_what_the_best_is",
    "watched": "test_training_rows_are_evaluated_as_held_out_rows_are",
    "noise": "test_noise_and_dropout_reach_training_alone",
    "averaged": "test_the_average_of_the_weights_is_evaluated",
    "looks": "test_replicas_are_checked_at_the_interval_and_at_saves",
    "early": "test_early_stopping_waits_for_its_patience",
    "stopped": "test_a_stopped_run_continues_after_its_checkpoint",
    "anew": "test_a_run_restarts_or_continues_from_a_path_as_configured",
    "finite": "test_a_non_finite_step_stops_skips_or_rewinds",
    "clock": "test_saves_by_the_clock_and_of_the_best_follow_the_config",
    "alpha": "test_adapters_are_scaled_by_alpha_over_rank",
    "places": "test_run_folder_cache_and_files_are_those_configured",
    "in_force": "test_settings_in_force_are_those_typed",
}
_MINUTES = 10  # after which a test counts as failed: it waits for what the fault has taken away


@dataclass(frozen=True)
class Fault:
    """A wrong line, and the tests of which one must fail."""

    name: str
    file: str
    old: str  # stands exactly once in the file
    new: str
    tests: tuple[str, ...]

    def occurrences(self, checkout: Path = CHECKOUT) -> int:
        return (checkout / self.file).read_text().count(self.old)


def faults() -> list[Fault]:
    """Returns the faults of faults.txt."""
    found = []
    for block in Path(__file__).with_name("faults.txt").read_text().strip().split("\n\n")[1:]:
        head, *lines = [line for line in block.splitlines() if not line.startswith("#")]
        name, file, test = head.split(" | ")
        old, new = ("\n".join(line[2:] for line in lines if line[0] == sign) for sign in "-+")
        place = f"tests/test_worker.py::{IN_A_RUN[test]}" if test in IN_A_RUN else test
        found.append(Fault(name, file, old, new, (place,)))
    return found


def copy(folder: Path) -> None:
    """Copies all files that git tracks or does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT, capture_output=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.decode().split("\0")):
        source, target = CHECKOUT / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


@contextmanager
def planted(fault: Fault, folder: Path) -> Iterator[None]:
    """Plants the fault in the copy at `folder` within the block; ValueError unless its line occurs exactly once."""
    if fault.occurrences(folder) != 1:
        raise ValueError(f"{fault.name}: {fault.file} has {fault.occurrences(folder)} times: {fault.old}")
    file = folder / fault.file
    text = file.read_text()
    file.write_text(text.replace(fault.old, fault.new))
    try:
        yield
    finally:
        file.write_text(text)


def failing(tests: Sequence[str], folder: Path) -> str | None:
    """Returns the first of the tests that fails in the copy; None if all pass.

    They run in a fork of this process, which has imported the dependencies of distft but not distft.
    """
    said = folder.with_name("said.txt")
    child = os.fork()
    if not child:
        try:
            os._exit(_run(tests, folder, said))
        finally:
            os._exit(9)
    deadline = time.monotonic() + 60 * _MINUTES
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"none ended in {_MINUTES} minutes"
        time.sleep(0.1)
    code, text = os.waitstatus_to_exitcode(ended[1]), said.read_text()
    found = [line.split(" - ")[0] for line in text.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    if code not in (0, 1) or (code and not found):
        raise RuntimeError(f"pytest ended with {code}:\n{text[-3000:]}")
    return found[0].partition(" ")[2] if found else None


def _run(tests: Sequence[str], folder: Path, said: Path) -> int:
    os.setsid()
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.chdir(folder)
    os.environ["PYTHONPATH"] = str(folder)  # of what the tests start
    sys.path[:] = [str(folder), *(each for each in sys.path if each not in ("", str(CHECKOUT)))]
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "distft")]:
        del sys.modules[name]
    warm = importlib.import_module("tests.support.warm")
    os.environ.pop(warm.SHARED, None)
    setattr(warm, "begin", warm.begin_by_fork)  # noqa: B010  # its server would import everything once more
    return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--tb=line", *tests]))


def load() -> None:
    """Imports the dependencies of the tests before the first fork."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    for name in ("torch.distributed.fsdp", "transformers.models.gpt2.modeling_gpt2", "deepspeed", "hydra", "pyarrow"):
        importlib.import_module(name)


def ignored_keys() -> list[Fault]:
    """Returns a fault for each key that has a test: its typed value is dropped after all checks."""
    from tests.test_every_key import SHOWN

    old = "    return Config.of(_with_absolute_paths(values), origin)"
    new = """    names = {key!r}.split(".")
    typed, plain = values, base
    for name in names[:-1]:
        typed, plain = typed[name], plain[name]
    if any(key == {key!r} or key.startswith({key!r} + ".") for key in settled.given):
        typed[names[-1]] = plain[names[-1]]
{old}"""
    file = "distft/config/compose.py"
    return [Fault(f"{key} ignored", file, old, new.format(key=key, old=old), (test,)) for key, test in SHOWN.items()]


def main(words: list[str]) -> int:
    """Returns 1 if a fault was not detected."""
    found = ignored_keys() if "keys" in words else faults()
    words = [word for word in words if word != "keys"]
    chosen = [fault for fault in found if not words or any(word in fault.name for word in words)]
    survived = []
    load()
    print("| fault | line | seconds | test that fails |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "distft"
        copy(folder)
        for fault in chosen:
            began = time.monotonic()
            with planted(fault, folder):
                test = failing(fault.tests, folder)
            survived += [] if test else [fault.name]
            seconds = time.monotonic() - began
            print(f"| {fault.name} | {fault.file} | {seconds:.0f} | {test or '**none**'} |", flush=True)
    print(f"{len(chosen)} faults, {len(survived)} met by no test: {', '.join(survived) or 'none'}")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
