"""Known noise of libraries is not seen; what the user set himself stays."""

import os
import subprocess
import sys

NOISY = """
from distft.runtime.logs import silence
silence()
import logging, warnings, os
warnings.warn("`torch.distributed.reduce_op` is deprecated, please use ...", FutureWarning)
logging.getLogger("DeepSpeed").warning("noise")
warnings.warn("the loss is nan", UserWarning)
print(os.environ["TRANSFORMERS_VERBOSITY"])
"""


def run(**variables: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "TRANSFORMERS_VERBOSITY"}
    return subprocess.run(
        [sys.executable, "-c", NOISY], capture_output=True, text=True, check=True, env=env | variables
    )


def test_noise_is_hidden_and_warnings_for_the_user_are_not():
    done = run()
    assert "reduce_op" not in done.stderr and "noise" not in done.stderr
    assert "the loss is nan" in done.stderr


def test_a_verbosity_that_the_user_chose_stays():
    assert run().stdout == "error\n"
    assert run(TRANSFORMERS_VERBOSITY="info").stdout == "info\n"
