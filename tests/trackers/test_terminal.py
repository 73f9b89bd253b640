"""The terminal shows few plain lines, a progress bar, and one table at the end."""

import io
import json

import pytest
from rich.console import Console

from distft.goodput import note
from distft.run import RunFolder
from distft.trackers import terminal
from distft.trackers.terminal import Terminal, duration, summary
from tests.support.fake_run import freeze


def train(step: int) -> dict:
    row = {"step": step, "split": "train", "loss": 3.0 / step, "accuracy": 0.5, "seconds": 2.0, "tokens": 1000}
    return row | {"peak_memory_gib": 1.5, "target_tokens": 300}


def held_out(step: int, loss: float) -> dict:
    return {"step": step, "split": "eval", "loss": loss, "perplexity": 2 * loss, "accuracy": 0.25, "target_tokens": 9}


def shown(run: RunFolder, rows: list[dict], on_terminal: bool = False) -> str:
    stream = io.StringIO()
    view = Terminal(Console(file=stream, width=100, force_terminal=on_terminal))
    view.start(run)
    for row in rows:
        view.log(row)
    view.finish("completed")
    return stream.getvalue()


def test_without_a_terminal_evaluations_are_lines_and_few_steps(tmp_path):
    run = freeze(tmp_path, steps=100)
    rows = [held_out(0, 4.0), *map(train, range(1, 51)), held_out(50, 3.0)]
    assert shown(run, rows).splitlines() == [
        "step 0/100  held-out loss 4.0000",
        "step 50/100  loss 0.0600  500 tokens/s  1m40s left  held-out loss 3.0000",
    ]


def test_rows_of_earlier_attempts_are_not_shown(tmp_path):
    run = freeze(tmp_path, steps=100)
    old = [held_out(0, 4.0), train(1)]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in old))
    assert shown(run, [*old, held_out(1, 3.0)]).splitlines() == [
        "step 1/100  loss 3.0000  500 tokens/s  3m18s left  held-out loss 3.0000"
    ]


def test_a_held_out_loss_is_shown_once_where_it_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(terminal, "_SECONDS_BETWEEN_LINES", -1)  # a line for every step
    rows = [held_out(0, 4.0), train(1), train(2), held_out(2, 3.0) | {"loss": None}]
    assert shown(freeze(tmp_path, steps=2), rows).splitlines() == [
        "step 0/2  held-out loss 4.0000",
        "step 1/2  loss 3.0000  500 tokens/s  2s left",
        "step 2/2  loss 1.5000  500 tokens/s  0s left",
        "step 2/2  held-out loss not finite",
    ]


def test_on_a_terminal_the_bar_holds_the_numbers(tmp_path):
    run = freeze(tmp_path, steps=4)
    text = shown(run, [held_out(0, 4.0), train(1), train(2)], on_terminal=True)
    last = [line for line in text.splitlines() if "step 2/4" in line][-1]
    for part in ("━", "loss 1.5000", "500 tokens/s", "4s left", "held-out loss 4.0000 (step 0)"):
        assert part in last


def test_on_a_terminal_the_stages_of_a_start_are_named(tmp_path, monkeypatch):
    """From the timeline, with the time since the launch; the first row replaces them."""
    run, stream, now = freeze(tmp_path, steps=100), io.StringIO(), [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    view = Terminal(Console(file=stream, width=100, force_terminal=True))
    view.start(run)

    def said() -> str:
        now[0] += 4
        view._bar.refresh()
        return stream.getvalue().rsplit("━", 1)[-1]

    assert "starting, 4s" in said()
    note(run, "submitted", 1)
    assert "loading libraries and model, 8s" in said()
    run.job.touch()
    assert "queued, 12s" in said(), "a job of SLURM"
    note(run, "begun", 1)
    assert "loading libraries and model, 16s" in said()
    note(run, "training", 1)
    assert "ready, before its first numbers, 20s" in said()
    view.log(held_out(0, 4.0))
    last = said()
    view.finish("completed")
    assert "held-out loss 4.0000" in last and "ready" not in last


@pytest.mark.parametrize(("seconds", "text"), [(41.6, "42s"), (185, "3m05s"), (7800, "2h10m"), (0, "0s")])
def test_durations_have_two_units_at_most(seconds, text):
    assert duration(seconds) == text


def test_the_table_shows_changes_and_paths(tmp_path):
    run = freeze(tmp_path, steps=4)
    rows = [held_out(0, 4.0), train(1), train(2), held_out(2, 3.0)]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run.write_status(state="stopped_early")
    run.final.mkdir()
    stream = io.StringIO()
    Console(file=stream, width=200).print(summary(run))
    for part in ("stopped early", "2 of 4", "4.0000 -> 3.0000 (-25.0%)", "8.00 -> 6.00", "25.0% -> 25.0%"):
        assert part in stream.getvalue()
    for part in ("3.0000 -> 1.5000", "500 tokens/s, 4s in steps", "1.50 GiB per process", str(run.final)):
        assert part in stream.getvalue()
    assert "report" not in stream.getvalue()
