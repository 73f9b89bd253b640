"""Fast tests come first, and the tests that share an expensive fixture are one group."""

from pathlib import Path

from tests.support.scheduling import LONG, SOURCES, pieces, place


def test_a_file_is_one_piece_and_its_slow_tests_another() -> None:
    fast, other, slow = "tests/a.py::fast", "tests/b.py::other", "tests/a.py::slow"
    assert list(pieces([fast, other, slow]).values()) == ["1 tests/a.py", "2 tests/b.py", "3 tests/a.py"]


def test_files_that_share_a_fixture_are_one_piece() -> None:
    nodeids = ["tests/slurm/test_a.py::x[1]", "tests/slurm/test_b.py::y", "tests/test_docs.py::z"]
    assert list(pieces(nodeids).values()) == ["1 cluster", "1 cluster", "2 demo_dir"]


def test_the_cluster_comes_right_after_the_fast_tests() -> None:
    assert place("tests/config/test_a.py::x", False, []) == place("tests/slurm/test_a.py::x", False, []) == 0
    assert place("tests/slurm/test_a.py::x", False, ["cluster"]) == place("tests/slurm/test_a.py::x", True, []) == 1
    assert 1 < place("tests/test_docs.py::x", True, ["demo_dir"]) < place("tests/sweep/test_a.py::x", True, [])


def test_long_files_come_before_the_others_and_exist(checkout: Path) -> None:
    for file in LONG:
        assert (checkout / file).is_file(), file
        assert place(f"{file}::x", True, []) < place("tests/sweep/test_a.py::x", True, [])
    assert place("tests/test_docs.py::x", True, ["demo_dir"]) < place(f"{LONG[0]}::x", True, [])


def test_files_that_read_all_sources_are_the_first_piece(checkout: Path) -> None:
    for file in SOURCES:
        assert (
            "tests.support.sources" in (checkout / file).read_text() or "tests.floors" in (checkout / file).read_text()
        )
        assert place(f"{file}::x", False, []) < place("tests/config/test_a.py::x", False, [])
    assert set(pieces([f"{file}::x" for file in SOURCES]).values()) == {"1 sources"}
