"""sweep.csv holds every run, in numbers that are not rounded."""

import csv
from pathlib import Path

from distft.report.sweep.page import write_table
from tests.report.sweep.conftest import Run


def rows_of(sweep, folder: Path) -> list[dict[str, str]]:
    write_table(sweep, folder / "sweep.csv")
    with (folder / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_run_is_a_row_with_all_its_numbers(make_sweep, tmp_path: Path):
    runs = [
        Run({"optimizer.lr": 0.00023001460293742767, "seed": 3}, losses=(3.0, 1.23456789)),
        Run({"optimizer.lr": None, "seed": 4}, (), "failed", "ValueError: a, b\nand more"),
        Run({"optimizer.lr": True, "seed": 5}, state="pending"),
    ]
    done, failed, waiting = rows_of(make_sweep(runs, ["optimizer.lr", "seed"]), tmp_path)
    assert done == {
        "optimizer.lr": "0.00023001460293742767", "seed": "3", "state": "completed", "objective": "1.23456789",
        "objective_step": "4", "train_loss": "0.5", "tokens": "3600", "process_hours": "0.02",
        "peak_memory_gib": "3.25", "run": "00", "reason": "",
    }  # fmt: skip
    assert (failed["optimizer.lr"], failed["reason"]) == ("null", "ValueError: a, b\nand more")
    assert (waiting["optimizer.lr"], waiting["state"], waiting["objective"]) == ("true", "pending", "")


def test_no_cell_is_a_formula(make_sweep, tmp_path: Path):
    runs = [Run({"optimizer.lr": "-1e-5"}, reason="=cmd|'/c calc'!A1"), Run({"optimizer.lr": "@SUM(1)"}, reason="-x")]
    first, second = rows_of(make_sweep(runs, ["optimizer.lr"]), tmp_path)
    assert (first["reason"], second["reason"], second["optimizer.lr"]) == ("'=cmd|'/c calc'!A1", "'-x", "'@SUM(1)")
    assert first["optimizer.lr"] == "-1e-5"
