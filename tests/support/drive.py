"""Follows a frozen run of the fake worker as launch does: `python -m tests.support.drive RUN GRACE_SECONDS`."""

import sys
from pathlib import Path

from distft.launch.__main__ import report_end, supervise
from distft.launchers.local import Local, LocalConfig
from distft.run import FINISHED, RunFolder

if __name__ == "__main__":
    run = RunFolder(Path(sys.argv[1]))
    launcher = Local(LocalConfig(program="tests.support.fake_worker"))
    [handle] = launcher.submit([run.path])
    outcome = supervise(run, handle, launcher, (), float(sys.argv[2]))
    sys.exit(0 if outcome.state in FINISHED else report_end(run, outcome))
