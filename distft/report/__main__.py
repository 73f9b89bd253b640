"""`python -m distft.report run=DIR`: the curves and the page of a run, made again from its files."""

from distft.config.command import command
from distft.config.keywords import find_run, keywords, usage
from distft.report.curves import write_sheet
from distft.report.facts import gather
from distft.report.page import write

KEYS = {"run": "the run folder, finished or not"}
CLAIM = "Writes report.html (one self-contained page), curves.svg and curves.png into the run folder, from its files."


def main(arguments: list[str]) -> int:
    run = find_run(keywords(arguments, KEYS, required=["run"])["run"])
    facts = gather(run)
    write_sheet(facts.rows, facts.name, run.path)
    write(facts, run.path / "report.html")
    print(run.path / "report.html")
    return 0


if __name__ == "__main__":
    command(main, help=usage("report", KEYS, CLAIM))
