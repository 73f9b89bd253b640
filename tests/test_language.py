"""Docs, code and tests use the terms of the field, not the phrases of earlier versions."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
SUFFIXES = {".cfg", ".conf", ".ini", ".jinja", ".md", ".py", ".sbatch", ".sh", ".toml", ".txt", ".yaml", ""}

# A phrase, and the term to use. Each is a word or phrase that has no legitimate use in these files.
TERMS = {
    r"\btold\b": "reported, detected, read from, distinguished",
    r"(?<!\.)\btells?\b": "reports, shows, detects",
    r"(?<!/)\bbesides?\b(?!\.py)": "next to, with, in addition to, while",
    r"\bdear(er|est)?\b": "expensive, largest",
    r"\bfarthest\b": "furthest; of bin packing: the least loaded bin",
    r"\basked for\b": "requested",
    r"\bpassed over\b": "skipped",
    r"\bcomes? to count\b": "is committed",
    r"\b(is|are|was|were) no (keyword|key|file|folder|number|list|mapping|path|choice|word|name)s?\b": "is not a ...",
    r"\bnumbers? that (is|are) none\b": "NaN/Inf, non_finite",
    r"\bpoison(ed|s)?\b": "non_finite",
    r"\bwithout a word\b": "without an error message",
    r"\bof (its|their) own accord\b": "automatically",
    r"\bis to be said\b": "warnings",
    r"\b(watches|names|tells|stops|blames) nobody\b": "disables; names no rank",
    r"\btakes? away\b": "removes, applies retention",
    r"\bkept no longer\b": "no longer kept by retention",
    r"\bseen by itself alone\b": "block-diagonal attention",
    r"\b(lie|lies|lying|stand|laid) end to end\b": "packed without padding",
    r"\bno like the others\b": "outlier",
    r"\bleaves? (it|them|the job|the jobs) alone\b": "does not change",
    r"\b(has|have|had) to say\b": "reports",
    r"\b(what|which) (it|a step|each step) eats\b": "the batches of a step",
    r"\bmore were wanted\b": "tried to allocate",
    r"\bNearest: ": "Try: ",
    r"\bas if nothing (was|were|had been)\b": "unchanged",
}
GAP = r"[ ]?\n?[ #|]*"  # a phrase may be broken over two lines, of a comment too
NAMED = "|".join(f"(?P<t{i}>{phrase.replace(' ', GAP)})" for i, phrase in enumerate(TERMS))
WORDS = re.compile(rf"\b(?=[a-z])(?:{NAMED})", re.IGNORECASE)  # the prefix makes it 6 times as fast
ADVICE = list(TERMS.values())

PARTS = """README.md CONTRIBUTING.md Makefile .ci benchmarks conf distft docs launch slurm tests""".split()
LONGEST = 60  # characters of a test's name
NOT_READ = {
    "benchmarks/results",  # recorded outputs, with the messages of their time
    "tests/test_language.py",
    "distft/audit/english.txt",  # words of English, and sentences
    "tests/audit/swap_cases.txt",
}


def files_in(part: str) -> Iterator[Path]:
    root = CHECKOUT / part
    for path in [root] if root.is_file() else sorted(root.rglob("*")):
        name = path.relative_to(CHECKOUT).as_posix()
        is_read = not any(name == skipped or name.startswith(f"{skipped}/") for skipped in NOT_READ)
        if is_read and path.is_file() and path.suffix in SUFFIXES and "__pycache__" not in path.parts:
            yield path


def phrases_in(text: str) -> Iterator[tuple[int, str, str]]:
    """Yields line number, phrase and the term to use; a phrase may be broken over two lines."""
    for found in WORDS.finditer(text):
        phrase = re.sub(r"\s+[#|]*\s*", " ", found[0])
        yield text.count("\n", 0, found.start()) + 1, phrase, ADVICE[int(str(found.lastgroup)[1:])]


@pytest.mark.parametrize("part", PARTS)
def test_the_terms_of_the_field_are_used(part: str):
    found = [
        f"{path.relative_to(CHECKOUT)}:{line}: '{phrase}'; use: {advice}"
        for path in files_in(part)
        for line, phrase, advice in phrases_in(path.read_text())
    ]
    assert not found, "\n" + "\n".join(found)


def names_of_tests() -> Iterator[tuple[str, str]]:
    """Yields the file and the name of each test."""
    for path in files_in("tests"):
        for found in re.finditer(r"^ *(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE):
            yield path.relative_to(CHECKOUT).as_posix(), found[1]


def test_names_of_tests_are_short_and_use_the_terms():
    names = list(names_of_tests())
    found = [
        f"{file}: {name}: {len(name)} characters; at most {LONGEST}" for file, name in names if len(name) > LONGEST
    ]
    for file, name in names:
        found += [f"{file}: {name}: '{old}'; use: {new}" for _, old, new in phrases_in(name.replace("_", " "))]
    assert len(names) > 1000 and not found, "\n" + "\n".join(found)


@pytest.mark.parametrize("part", PARTS)
def test_every_part_named_has_files(part: str):
    assert next(files_in(part), None)


def test_a_phrase_is_found_across_a_line_break():
    found = list(phrases_in("The next\n# one that was\n    # asked\n    # for is told.\n"))
    assert [(line, phrase) for line, phrase, _ in found] == [(3, "asked for"), (4, "told")]
