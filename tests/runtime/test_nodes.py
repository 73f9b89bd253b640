"""Nodes with other software are refused on all of them, and each rank's environment is on record."""

from pathlib import Path

import pytest

from tests.support.ranks import run_ranks

pytestmark = pytest.mark.slow


def test_every_ranks_variables_are_on_record_and_no_secret() -> None:
    first, second = run_ranks(2, "tests.support.compare_nodes")
    assert first == second
    assert first["variables"]["NCCL_DEBUG"] == "of rank 0" and first["software"]["torch"]
    assert [rank["variables"] for rank in first["ranks"]] == [{}, {"NCCL_DEBUG": "of rank 1"}]
    assert "secret of eight" not in str(first)


def test_a_node_with_another_version_is_named_on_all(tmp_path: Path) -> None:
    other = tmp_path / "peft-0.0.1.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 0.0.1\n")
    first, second = run_ranks(2, "tests.support.compare_nodes", str(tmp_path))
    assert first == second
    assert first.startswith("rank 1 on ") and " has peft 0.0.1, rank 0 on " in first and "Try: " in first
