"""The process around one rank's work: `python -m distft.rank RUN_DIR --attempt N --parent PID`, on every rank.

It must be in place before torch is imported: output goes to the rank's log, an exception to its error file, and the
process dies with the one that started it.
"""

import argparse
import os
from pathlib import Path

from distft.run import RunFolder
from distft.runtime.errors import record
from distft.runtime.logs import redirect
from distft.runtime.parent import die_with_parent
from distft.runtime.quiet import silence


def main() -> None:
    """Does this rank's share of the work, to its end: `train`, or what the frozen config says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True, help="the process this one dies with")
    given = parser.parse_args()
    run, rank = RunFolder(given.run), int(os.environ["RANK"])
    die_with_parent(given.parent)
    redirect(run.rank_log(given.attempt, rank))
    silence()
    with record(run, given.attempt, rank):
        from distft import worker
        from distft.runtime.process_group import process_group

        with process_group() as world:
            work = worker.WORK[run.read_config().get("work", "train")]
            work(run, given.attempt, world)


if __name__ == "__main__":
    main()
