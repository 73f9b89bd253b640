"""A proof has each line as soon as it is known, and a line passes by its number alone."""

import json
import math
from pathlib import Path

import pytest

from distft.prove.proof import Proof, at_most, failed, not_run, read_lines, skipped


@pytest.mark.parametrize(("value", "status"), [(0.9, "pass"), (1.0, "pass"), (1.1, "fail"), (math.nan, "fail")])
def test_a_line_passes_up_to_its_limit(value: float, status: str) -> None:
    line = at_most("a.check", value, 1.0, "a step", "waits", calls=3)
    assert (line.status, line.expected, line.text, line.detail["calls"]) == (status, "<= 1", "waits", 3)


def test_every_line_is_on_disk_at_once_and_says_the_device(tmp_path: Path) -> None:
    proof = Proof(tmp_path / "proof.jsonl", {"device": "cpu", "shapes": "small"})
    for count, line in enumerate((skipped("a", "no device"), not_run("b", "no time"), at_most("c", 1, 2, "", "x")), 1):
        proof.add(line)
        written = [json.loads(text) for text in proof.file.read_text().splitlines()]
        assert len(written) == count
        assert set(written[-1]) == {"check", "status", "value", "unit", "expected", "seconds", "detail"}
        assert (written[-1]["detail"]["device"], written[-1]["detail"]["shapes"]) == ("cpu", "small")
    assert not proof.has_failed
    proof.add(failed("d", "wrong"))
    assert proof.has_failed and proof.count("fail") == 1
    assert list(read_lines(proof.file)) == proof.lines


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    proof = Proof(tmp_path / "proof.jsonl", {})
    proof.add(failed("a", "wrong"))
    with proof.file.open("a") as file:
        file.write('{"check": "b", "sta')
    assert [line.check for line in read_lines(proof.file)] == ["a"]
