"""The audit of rows in documents per second and core: `python -m benchmarks.data_stage.audit [documents=900]`.

Documents are those of `benchmarks.data_stage.cleaning`. All of an audit is measured, and its parts by themselves;
processor time counts, since the machine may be shared, and of several turns the fastest.
"""

import json
import time
from dataclasses import replace

from benchmarks.data_stage.cleaning import TURNS, documents
from distft.audit.dataset import Dropped, Looking, audit_rows, make_looking
from distft.audit.terms import load_terms
from distft.config.command import command, keywords, usage
from distft.data.cleaning.view import View, view_of

KEYS = {"documents": "how many (default 900)"}
CLAIM = "Prints documents per second and core as JSON."


def rate(views: list[View], looking: Looking) -> float:
    """Returns documents per second of processor time."""
    terms = load_terms()
    best = float("inf")
    for _ in range(TURNS):
        fresh = [replace(view, _words={}, _hashes={}) for view in views]
        started = time.process_time()
        audit_rows(fresh, terms, looking, Dropped()).measures(is_cleaned=False)
        best = min(best, time.process_time() - started)
    return len(views) / best


def main(arguments: list[str]) -> int:
    given = keywords(arguments, KEYS, required=())
    views = [
        view_of(raw.file, raw.line, example, raw.value) for raw, example in documents(int(given.get("documents", 900)))
    ]
    every = make_looking([])
    parts = {
        "all": every,
        "terms": Looking(None, None, None),
        "terms and personal data": replace(every, language=None),
        "terms and language": replace(every, pii=None),
    }
    characters = sum(len(text.text) for view in views for text in view.texts) / len(views)
    found = {name: round(rate(views, looking)) for name, looking in parts.items()}
    print(
        json.dumps({"documents": len(views), "characters": round(characters), "documents_per_second": found}, indent=1)
    )
    return 0


if __name__ == "__main__":
    command(main, help=usage("data_stage.audit", KEYS, CLAIM))
