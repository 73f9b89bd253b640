"""A run folder that cannot be made is told before anything else is done."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from distft.config import ConfigError
from distft.stages import check_writable


def test_a_folder_that_takes_no_run_is_named_before_anything_is_written(tmp_path: Path):
    check_writable(tmp_path / "new" / "runs")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=rf"runs_dir={tmp_path}/file/runs: {tmp_path}/file cannot be written to"):
        check_writable(tmp_path / "file" / "runs")
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_of_another_user_is_named():
    program = "import os, sys, pathlib; from distft.stages import check_writable; os.setuid(65534); "
    program += "check_writable(pathlib.Path(sys.argv[1]))"
    folder = "/usr/share/runs"
    done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=False)
    assert f"runs_dir={folder}: /usr/share cannot be written to. Nearest: " in done.stderr
