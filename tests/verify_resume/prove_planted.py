"""Proves runs with planted faults: `python -m prove_planted OUT CASES.json OVERRIDES`, one case after the other."""

import io
import json
import sys
from pathlib import Path

from distft.trackers.terminal import screen
from distft.verify_resume.__main__ import verify
from distft.verify_resume.kills import read_arguments
from distft.verify_resume.runs import WORK


def main() -> None:
    """Writes each case's exit code and what was printed to OUT/answers.json."""
    out, cases, *shared = sys.argv[1:]
    answers = {}
    for name, case in json.loads(cases).items():
        said = io.StringIO()
        overrides = [*shared, *case["overrides"], f"out={out}/{name}"]
        code = verify(read_arguments(overrides), screen(said), case.get("work", WORK))
        answers[name] = {"code": code, "said": said.getvalue()}
    (Path(out) / "answers.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
