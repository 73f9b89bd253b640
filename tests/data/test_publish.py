import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from distft.data.publish import build_once


def fill(folder: Path, made: Path) -> None:
    with build_once(folder, "done") as building:
        if building:
            (made / str(os.getpid())).touch()
            for number in range(20):
                (building / str(number)).write_text("x" * 1000)
                time.sleep(0.002)
            (building / "done").touch()


def die_half_way(folder: Path) -> None:
    with build_once(folder, "done") as building:
        assert building
        (building / "0").touch()
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_eight_makers_publish_one_folder_atomically(tmp_path: Path):
    made = tmp_path / "made"
    made.mkdir()
    context = multiprocessing.get_context("fork")
    makers = [context.Process(target=fill, args=(tmp_path / "folder", made)) for _ in range(8)]
    for maker in makers:
        maker.start()
    while any(maker.is_alive() for maker in makers):
        if (tmp_path / "folder").exists():
            assert len(list((tmp_path / "folder").iterdir())) == 21
    assert [maker.exitcode for maker in makers] == [0] * 8
    assert len(list(made.iterdir())) == 1


def test_leftovers_of_a_killed_maker_are_removed_and_rebuilt(tmp_path: Path):
    maker = multiprocessing.get_context("fork").Process(target=die_half_way, args=(tmp_path / "folder",))
    maker.start()
    maker.join()
    assert not (tmp_path / "folder").exists()
    with build_once(tmp_path / "folder", "done") as building:
        assert building is not None
        assert list(building.iterdir()) == []
        (building / "done").touch()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["folder"]


def test_a_failure_leaves_nothing(tmp_path: Path):
    with pytest.raises(OSError, match="disk full"), build_once(tmp_path / "folder", "done"):
        raise OSError("disk full")
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_folder_that_another_machine_finished_first_is_kept(tmp_path: Path):
    with build_once(tmp_path / "folder", "done") as building:
        assert building is not None
        (building / "done").write_text("mine")
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "done").write_text("theirs")
    assert (tmp_path / "folder" / "done").read_text() == "theirs"
