"""The command line of `distft human_eval create`: its keys, and all that is wrong with their values at once."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from distft.compat.reach import OWN_VERSION
from distft.config.errors import ConfigError
from distft.human_eval import texts
from distft.human_eval.answers import PASSED_ON, split_run
from distft.human_eval.arguments import Arguments
from distft.human_eval.assignment import Design
from distft.human_eval.study import Settings
from distft.paths import absolute, why_not_writable

KEYS = {
    "study": "the folder to create",
    "runs": "[A,B,...]: run folders or exported ones; A@best, A@step-N or A@base name a checkpoint, base: A@base",
    "prompts": "a JSONL file of objects with prompt or messages, optionally id and category; or eval: held-out rows",
    "answers": "[a.jsonl,b.jsonl]: existing files of distft generate, in the place of prompts=, or of runs= too",
    "raters": "number of raters, each with an own link",
    "seed": "of every draw (default 0), and of generation",
    "items": "number of prompts, drawn from all (default: all)",
    "overlap": "raters who judge each item (default 2, or 1 with one rater)",
    "type": "pairwise (default): two answers; rating: one answer on the scales of criteria",
    "criteria": f"[...]: scales of type=rating (default [{','.join(texts.CRITERIA)}])",
    "reasons": f"[...]: reasons to tick (default [{','.join(texts.REASONS)}])",
    "repeat": "share of a rater's items that come again, half of them with A and B swapped (default 0.1)",
    "attention": "attention checks, as a share of a rater's items (default 0.05)",
    "practice": "a JSONL file of objects with prompt, a, b, expected (a or b) and why; or none (default: two items)",
    "min_attention": "exclude raters who pass a smaller share of their attention checks (default 0.5)",
    "min_seconds": "exclude votes that are faster (default 0)",
    "hide": "[...]: further words that would give a system away; hidden in all texts",
    "title": "heading of the pages (default: Which answer is better?)",
    "consent": "a Markdown file (default: a general text)",
    "instructions": "a Markdown file (default: a general text)",
    "contact": "whom raters can ask; shown on the first page",
    "pay": "what raters get; shown on the first page",
    "ethics": "the approval or review, for the datasheet",
    **dict.fromkeys(PASSED_ON, "passed on to distft generate"),
}
CLAIM = """create: generates answers of two or more systems, draws blind pages, and writes DIR/links.json with a
personal link for each rater. The settings, the exclusion rules among them, are fixed from then on."""
PAIRWISE_ONLY = {  # key -> why type=rating has no use for it
    "reasons": "type=rating has no reasons to tick. Try: criteria=",
    "practice": "type=rating has no practice pages. Try: without",
    "attention": "type=rating has no attention checks. Try: without",
    "min_attention": "type=rating has no attention checks. Try: without",
}


@dataclass(frozen=True)
class Asked:
    """The checked command line of `create`."""

    runs: tuple[str, ...]
    answers: tuple[str, ...]
    prompts: str | None
    items: int | None
    hide: tuple[str, ...]
    practice: list[texts.Practice] | None  # None: the built-in items
    options: tuple[str, ...]  # of distft generate
    design: Design
    settings: Settings


def parse(given: Mapping[str, str]) -> Asked:
    """Returns the checked command line; ConfigError with everything that is wrong."""
    read = Arguments(given)
    kind = read.choice("type", ("pairwise", "rating"))
    runs, answers = read.words("runs"), read.words("answers")
    raters = read.integer("raters", 1, 1, 10_000)
    overlap = read.integer("overlap", min(2, raters), 1)
    attention = read.number("attention", 0.05 if kind == "pairwise" else 0.0, 0, 1)
    design = Design(raters, overlap, read.number("repeat", 0.1, 0, 1), attention)
    items = read.integer("items", 1, 1) if "items" in given else None
    practice = practice_rows(given.get("practice"), kind, read.errors)
    settings = settings_of(read, kind, design)
    read.errors += wrong_sources(given, runs, answers, least=2 if kind == "pairwise" else 1)
    if overlap > raters:
        read.errors.append(f"overlap={overlap}: is more than the {raters} raters. Try: overlap={raters}")
    if kind == "pairwise" and "criteria" in given:
        read.errors.append("criteria=: are the scales of type=rating. Try: reasons=, or type=rating")
    if kind == "rating":
        read.errors += [f"{key}=: {why}" for key, why in PAIRWISE_ONLY.items() if key in given]
    hide = read.words("hide")
    if read.errors:
        raise ConfigError(read.errors)
    options = tuple(f"{name}={given[name]}" for name in (*PASSED_ON, "seed") if name in given)
    return Asked(runs, answers, given.get("prompts"), items, hide, practice, options, design, settings)


def settings_of(read: Arguments, kind: str, design: Design) -> Settings:
    """Returns the settings of the study, without what only its items determine."""
    pairwise = kind == "pairwise"
    texts_of = {"consent": texts.CONSENT, "instructions": texts.PAIRWISE if pairwise else texts.RATING}
    for key in texts_of:
        try:
            texts_of[key] = texts.read_text(key, read.given[key]) if key in read.given else texts_of[key]
        except ConfigError as error:
            read.errors += error.messages
    return Settings(
        title=read.given.get("title", "Which answer is better?" if pairwise else "How good is this answer?"),
        type=kind,
        seed=read.integer("seed", 0, 0, 2**63 - 1),
        raters=design.raters,
        overlap=design.overlap,
        criteria=() if pairwise else read.words("criteria", texts.CRITERIA),
        reasons=read.words("reasons", texts.REASONS) if pairwise else (),
        consent=texts_of["consent"],
        instructions=texts_of["instructions"],
        contact=read.given.get("contact", ""),
        pay=read.given.get("pay", ""),
        ethics=read.given.get("ethics", ""),
        min_attention=read.number("min_attention", 0.5, 0, 1),
        min_seconds=read.number("min_seconds", 0.0, 0, 3600),
        planned_votes=0,
        items_sha256="",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        distft=OWN_VERSION,
    )


def wrong_sources(given: Mapping[str, str], runs: Sequence[str], answers: Sequence[str], least: int) -> list[str]:
    """Returns what is wrong with the study's folder, and with where its answers come from."""
    errors = []
    folder, prompts = absolute(given["study"]), given.get("prompts")
    if folder.exists():
        errors.append(f"study={given['study']}: exists. Try: another folder")
    elif why := why_not_writable(folder.parent):
        errors.append(f"study={given['study']}: {why}. Try: another folder")
    if answers and prompts:
        errors.append(f"prompts={prompts}: the prompts are those of answers=. Try: one of the two")
    if not answers and not (runs and prompts):
        errors.append("runs=, prompts=: both are needed to generate answers. Try: answers=[a.jsonl,b.jsonl]")
    if answers and runs and len(answers) != len(runs):
        errors.append(f"answers={given['answers']}: {len(answers)} files for {len(runs)} runs. Try: one for each")
    if 0 < len(answers or runs) < least:
        key = "answers" if answers else "runs"
        errors.append(f"{key}=: a comparison needs two. Try: runs=[A,base], or type=rating")
    for word in runs:
        run, _ = split_run(word, runs[0])
        if not absolute(run).is_dir() or word.startswith("base@"):
            errors.append(f"runs={word}: {absolute(run)} is not a folder. Try: a run's folder, or base")
    missing = [file for file in answers if not absolute(file).is_file()]
    errors += [f"answers={file}: No such file. Try: a file of distft generate" for file in missing]
    if answers and (unused := [name for name in PASSED_ON if name in given]):
        errors.append(f"{', '.join(unused)}=: nothing is generated with answers=. Try: without")
    return errors


def practice_rows(file: str | None, kind: str, errors: list[str]) -> list[texts.Practice] | None:
    """Returns the practice items of a file; None: the built-in ones."""
    if file == "none" or kind == "rating":
        return []
    if file is None:
        return None
    rows: list[texts.Practice] = []
    try:
        for number, line in enumerate(absolute(file).read_text(encoding="utf-8").splitlines(), 1):
            row = json.loads(line)
            if not isinstance(row, dict) or not all(
                isinstance(row.get(k), str) for k in ("prompt", "a", "b", "expected")
            ):
                errors.append(f"practice={file}:{number}: expected an object with prompt, a, b and expected")
            elif row["expected"] not in ("a", "b"):
                errors.append(f"practice={file}:{number}: expected is {row['expected']!r}. Allowed: a, b")
            else:
                prompt, a, b, expected = (row[k] for k in ("prompt", "a", "b", "expected"))
                rows.append(texts.Practice(prompt, a, b, expected, row.get("why", "")))
    except (OSError, ValueError) as error:
        errors.append(f"practice={file}: {getattr(error, 'strerror', None) or error}. Try: a JSONL file, or none")
    return rows
