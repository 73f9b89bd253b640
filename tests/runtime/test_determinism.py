"""`train.deterministic`: every switch is set in a fresh process and read back.

A seed is a function of its purpose only.
"""

import json
import os
import subprocess
import sys

import pytest

from distft.runtime.determinism import VARIABLES, seed_for

SET = "from distft.runtime.determinism import effective_switches, make_deterministic as make; import json, torch; "
SHOW = "print(json.dumps(effective_switches()))"


def said(program: str) -> dict[str, object]:
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    done = subprocess.run([sys.executable, "-c", SET + program], env=clean, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.slow
def test_every_switch_is_set_and_read_back_from_the_library():
    off = {
        "deterministic_algorithms": False,
        "warn_only": False,
        "fill_uninitialized_memory": True,
        "cudnn_deterministic": False,
        "cudnn_benchmark": False,
    } | dict.fromkeys(VARIABLES)
    on = off | {"deterministic_algorithms": True, "cudnn_deterministic": True} | VARIABLES
    assert said(SHOW) == off
    turned = "torch.backends.cudnn.benchmark = True; torch.utils.deterministic.fill_uninitialized_memory = False; "
    assert said(turned + "torch.use_deterministic_algorithms(True, warn_only=True); make(); " + SHOW) == on
    assert said("make(); torch.backends.cudnn.benchmark = True; " + SHOW) == on | {"cudnn_benchmark": True}


def test_seeds_are_stable_over_processes_and_versions() -> None:
    assert seed_for(0, "step", 1) == 4570293211867536398


def test_words_are_kept_apart() -> None:
    assert len({seed_for(0, "a", "bc"), seed_for(0, "ab", "c"), seed_for(0, "abc"), seed_for(1, "abc")}) == 4
