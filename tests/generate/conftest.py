"""One small LoRA run for the tests of generation and chat."""

import pytest

from distft.run import RunFolder


@pytest.fixture(scope="session")
def tuned_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A LoRA run of three steps with checkpoints of steps 2 and 3; its base model is two folders up, in base/."""
    from tests.support.answered import make_run  # the process that starts the workers needs no torch

    return make_run(tmp_path_factory.mktemp("tuned"), "tuning=lora", "tuning.rank=4")
