"""One small study, served once for all tests that only read or add votes."""

from collections.abc import Iterator

import pytest

from tests.support.studies import Served, make_study, plain_texts


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A served study of 8 prompts and 6 raters; a test takes a rater of its own."""
    folder = tmp_path_factory.mktemp("served")
    study = make_study(folder, plain_texts(8), "raters=6", "overlap=3", "contact=lab@example.org", "pay=15 per hour")
    with Served(study) as found:
        yield found
