"""Shared by all tests: fast tests first, no network access, no silent skip of a required tool."""

import gc
import os
import shlex
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.scheduling import InPieces, place
from tests.support.trained import references, rows, trained, trained_more, trained_to_export  # noqa: F401  # fixtures
from tests.support.warm import SHARED, python, warm_children

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the commands that tests start receive it

CHECKOUT = Path(__file__).parents[1]
_COLLECTIONS = (20_000, 20, 20)  # Python's own are 700, 10, 10; syntax trees are 500,000 objects
gc.set_threshold(*_COLLECTIONS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts slow tests last, so that a cheap failure is seen first."""
    items.sort(key=lambda item: place(item.nodeid, bool(item.get_closest_marker("slow")), fixtures_of(item)))


def pytest_collection_finish() -> None:
    """Keeps the garbage collector from scanning all tests and their modules again and again."""
    gc.freeze()


def fixtures_of(item: pytest.Item) -> list[str]:
    return getattr(item, "fixturenames", [])


def pytest_xdist_setupnodes(specs: Sequence[Any]) -> None:
    """Forks the workers from a process that has imported what tests import; each has its share of the cores."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // len(specs))))
    os.environ[SHARED] = python()
    for spec in specs:
        spec.python = shlex.quote(os.environ[SHARED])


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> InPieces:
    return InPieces(config, log)


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The folder with pyproject.toml."""
    return CHECKOUT


@pytest.fixture(scope="session")
def require():
    """Gives `require(program) -> path`: skips without the program, fails where DISTFT_REQUIRE names it."""

    def find(program: str) -> str:
        path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
        if path is None and program in os.environ.get("DISTFT_REQUIRE", "").split(","):
            pytest.fail(f"{program} is required here (DISTFT_REQUIRE) and not installed")
        if path is None:
            pytest.skip(f"{program} is not installed")
        return path

    return find


@pytest.fixture(scope="session")
def demo_dir() -> Path:
    """The folder with the real demo model and rows, fetched once and kept outside the checkout."""
    from distft.demo import __main__ as demo

    assert demo.main(["--fetch-only"]) == 0
    return Path("~/.cache/distft/demo").expanduser()


@pytest.fixture
def warm() -> Iterator[None]:
    """Commands that the code under test starts in processes of their own have their imports done."""
    with warm_children():
        yield


@pytest.fixture(autouse=True)
def process_state() -> Iterator[None]:
    """A test, and so the code it calls, leaves the process as it was: other tests run in it.

    Variables may be added, since libraries are given their defaults in this way; those set before keep their values.
    """
    before = state_of_process()
    yield
    after = state_of_process()
    assert {name: after.get(name) for name in before} == before


def state_of_process() -> dict[str, object]:
    umask = os.umask(0)
    os.umask(umask)
    handlers = {each.name: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    variables = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    return {"umask": umask, "folder": os.getcwd(), **handlers, **variables}
