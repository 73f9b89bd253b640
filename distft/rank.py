"""The process around a worker, started on every rank: `python -m distft.rank RUN_DIR --attempt N --parent PID`.

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
    """Runs this rank's worker to its end."""
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
        from distft.runtime.process_group import process_group
        from distft.worker import work

        with process_group() as world:
            work(run, given.attempt, world)


if __name__ == "__main__":
    main()
