"""The line of each planted fault exists, so code that moves takes its faults along."""

from pathlib import Path

from tests.support.planted import faults, ignored_keys

FAULTS = faults()


def test_every_line_of_a_fault_occurs_once_in_its_file(checkout: Path):
    assert {fault.name: fault.occurrences() for fault in FAULTS if fault.occurrences() != 1} == {}
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def test_the_line_that_drops_a_key_occurs_once():
    assert {fault.occurrences() for fault in ignored_keys()} == {1}


def test_the_test_of_every_fault_exists(checkout: Path):
    tests = {test.partition("::")[0] for fault in FAULTS for test in fault.tests}
    assert [test for test in tests if not (checkout / test).is_file()] == []
