"""`python -m distft.report run=DIR`: the curves and the page of a run, made again from its files."""

import sys

from distft.paths import absolute
from distft.report.curves import write_sheet
from distft.report.facts import gather
from distft.report.page import write
from distft.run import EXIT_WRONG_CONFIG, RunFolder

HELP = """\
usage: python -m distft.report run=DIR

Writes DIR/report.html (one self-contained page), DIR/curves.svg and DIR/curves.png from the files of the run.

  run=DIR   a run folder, finished or not
"""


def main(argv: list[str]) -> int:
    if "--help" in argv or "-h" in argv:
        print(HELP)
        return 0
    keys = [text.partition("=")[0] for text in argv]
    if keys != ["run"]:
        print(f"distft.report takes run=DIR and nothing else; given: {' '.join(argv) or 'nothing'}", file=sys.stderr)
        return EXIT_WRONG_CONFIG
    run = RunFolder(absolute(argv[0].partition("=")[2]))
    try:
        facts = gather(run)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return EXIT_WRONG_CONFIG
    write_sheet(facts.rows, facts.name, run.path)
    write(facts, run.path / "report.html")
    print(run.path / "report.html")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
