"""Launches one machine's part of a run of the fake worker that several machines share.

`python -m tests.support.drive_together RUN NODES HOST:PORT`; the run is frozen.
"""

import sys
from pathlib import Path

from distft.launch.__main__ import report_end, supervise
from distft.launchers import local
from distft.launchers.local import Local, LocalConfig
from distft.run import FINISHED, RunFolder

local.SECONDS_TO_WAIT, local._SECONDS_TO_SHOW = 8.0, 2.0


def main() -> int:
    run = RunFolder(Path(sys.argv[1]))
    launcher = Local(LocalConfig(nodes=int(sys.argv[2]), program="tests.support.fake_worker", rendezvous=sys.argv[3]))
    try:
        handle = launcher.find(run.path) or launcher.submit([run.path])[0]
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    outcome = supervise(run, handle, launcher, (), 300)
    return 0 if outcome.state in FINISHED else report_end(run, outcome)


if __name__ == "__main__":
    sys.exit(main())
