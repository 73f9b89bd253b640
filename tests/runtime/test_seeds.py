"""A seed depends on what it is for and on nothing else."""

from distft.runtime.determinism import seed_for


def test_seeds_are_stable_over_processes_and_versions() -> None:
    assert seed_for(0, "step", 1) == 4570293211867536398


def test_words_are_kept_apart() -> None:
    assert len({seed_for(0, "a", "bc"), seed_for(0, "ab", "c"), seed_for(0, "abc"), seed_for(1, "abc")}) == 4
