"""Which tests stay together on one worker of pytest-xdist, and in which order they begin.

Trap: xdist's own groups (--dist loadgroup) have no effect under pytest 9.2, in silence.
"""

from collections.abc import Sequence

from xdist.scheduler import LoadScopeScheduling

# An expensive session fixture, and the tests that use it; the most expensive first.
TOGETHER = {
    "cluster": ("tests/slurm/",),
    "trained": (
        "tests/strategies/test_parity.py",
        "tests/strategies/test_lora.py",
        "tests/export/",
        "tests/checkpoint/test_damage.py",
        "tests/export/",
    ),
    "demo_dir": (
        "tests/demo/test_gguf.py",
        "tests/test_calibration.py",
        "tests/test_docs.py",
        "tests/test_launch_scripts.py",
        "tests/benchmarks/peers/test_data.py",
        "tests/benchmarks/test_rows.py",
    ),
    "model_files": ("tests/test_hub.py", "tests/test_sockets.py"),
}

# Files that take 40 s or more, of which no worker should begin one when the other has nothing left to do.
LONG = (
    "tests/train/test_step.py", "tests/test_worker.py", "tests/strategies/test_memory.py",
    "tests/checkpoint/test_resume.py", "tests/losses/test_every_loss.py", "tests/prove/test_command.py",
    "tests/sweep/test_sweeps.py", "tests/launchers/test_follow.py", "tests/strategies/test_bf16.py",
    "tests/strategies/test_real_vocabulary.py", "tests/launchers/test_together.py", "tests/checkpoint/test_power.py",
    "tests/launch/test_launch.py", "tests/test_signals.py", "tests/train/test_ema.py", "tests/test_words.py",
)  # fmt: skip


# Fast tests that read the syntax of all code, which tests.support.sources parses once for each worker.
SOURCES = (
    "tests/compat/test_floors.py", "tests/test_imports.py", "tests/test_pyproject.py",
    "tests/test_style.py", "tests/test_unsafe_code.py",
)  # fmt: skip


def fixture_of(nodeid: str) -> str | None:
    """Returns the expensive fixture that the tests of this file share."""
    return next((name for name, places in TOGETHER.items() if nodeid.startswith(places)), None)


def place(nodeid: str, is_slow: bool, fixtures: Sequence[str]) -> int:
    """Returns 0 for a fast test, -1 if it reads sources.

    The most expensive of the others come first, so that the workers end together.
    """
    shared = fixture_of(nodeid)
    for name in TOGETHER:
        assert name == shared or name not in fixtures, f"{nodeid} uses {name}: its file belongs in TOGETHER"
    if not is_slow and "cluster" not in fixtures:
        return -nodeid.startswith(SOURCES)
    if shared:
        return 1 + list(TOGETHER).index(shared)
    is_long = nodeid.startswith(tuple(f"{file}::" for file in LONG))
    return 1 + len(TOGETHER) + (not is_long)


def pieces(nodeids: Sequence[str]) -> dict[str, str]:
    """Returns each test's group: the tests of one file, or of one expensive fixture, which run one after another."""
    found, last, number = {}, "", 0
    for nodeid in nodeids:
        name = fixture_of(nodeid) or ("sources" if nodeid.startswith(SOURCES) else nodeid.partition("::")[0])
        number += name != last
        found[nodeid], last = f"{number} {name}", name
    return found


class InPieces(LoadScopeScheduling):
    """Gives a worker that runs out of tests the next piece; with --no-loadscope-reorder, in the order of the tests."""

    def _split_scope(self, nodeid: str) -> str:
        if not hasattr(self, "pieces"):
            self.pieces = pieces(self.collection or [])
        return self.pieces[nodeid]
