"""`distft human_eval create`: answers, blind items, pages per rater, and a personal link for each."""

import json
import os
import random
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import distft
from distft.config.errors import ConfigError
from distft.human_eval import texts
from distft.human_eval.answers import (
    PASSED_ON,
    Answer,
    answers_of_files,
    answers_of_runs,
    hidden_words,
    matched,
    names_of,
    notes_on,
    pattern_of,
    read_answers,
    shown_prompt,
    shown_text,
    split_run,
)
from distft.human_eval.arguments import Arguments
from distft.human_eval.assignment import Design, Slot, assign, slots_of
from distft.human_eval.study import Item, Key, Settings, Study, System
from distft.human_eval.votes import Votes
from distft.paths import absolute, why_not_writable
from distft.run import write_json

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


@dataclass(frozen=True)
class Asked:
    """The checked command line of `create`."""

    runs: tuple[str, ...]
    answers: tuple[str, ...]
    prompts: str | None
    items: int | None
    hide: tuple[str, ...]
    practice: list[dict[str, Any]] | None  # None: the built-in items
    options: tuple[str, ...]  # of distft generate
    design: Design
    settings: Settings


def create(given: Mapping[str, str]) -> int:
    """Creates a study and prints where the links are; returns 0. ConfigError with everything that is wrong."""
    folder = absolute(given["study"])
    asked = parse(given)
    os.umask(0o077)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        (partial / "answers").mkdir(parents=True)
        notes = write_study(Study(partial), asked)
        partial.rename(folder)
    except RuntimeError as error:
        print(f"no study: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    study = Study(folder)
    settings, count = study.read_settings(), len(study.read_key().items)
    per_rater = settings.planned_votes / settings.raters
    print(f"{folder}: {count} items for {settings.raters} raters, {per_rater:.0f} votes each, and practice and checks")
    for note in notes:
        print(f"  note: {note}")
    print(f"  links: {study.links_file} (secret)")
    print(f"  next:  distft human_eval serve study={given['study']}")
    return 0


def parse(given: Mapping[str, str]) -> Asked:
    """Returns the checked command line; ConfigError with everything that is wrong."""
    read = Arguments(given)
    runs, answers, prompts = read.words("runs"), read.words("answers"), given.get("prompts")
    raters = read.integer("raters", 1, 1, 10_000)
    kind = read.choice("type", ("pairwise", "rating"))
    errors = read.errors
    folder = absolute(given["study"])
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
    least = 2 if kind == "pairwise" else 1
    if len(answers or runs) < least and (answers or runs):
        errors.append(
            f"{'answers' if answers else 'runs'}=: a comparison needs two. Try: runs=[A,base], or type=rating"
        )
    for word in runs:
        run, _ = split_run(word, runs[0])
        if not absolute(run).is_dir() or word.startswith("base@"):
            errors.append(f"runs={word}: {absolute(run)} is not a folder. Try: a run's folder, or base")
    for file in answers:
        if not absolute(file).is_file():
            errors.append(f"answers={file}: No such file. Try: a file of distft generate")
    if answers and (unused := [name for name in PASSED_ON if name in given]):
        errors.append(f"{', '.join(unused)}=: nothing is generated with answers=. Try: without")
    if kind == "pairwise" and "criteria" in given:
        errors.append("criteria=: are the scales of type=rating. Try: reasons=, or type=rating")
    overlap = read.integer("overlap", min(2, raters), 1)
    if overlap > raters and not errors:
        errors.append(f"overlap={overlap}: is more than the {raters} raters. Try: overlap={raters}")
    design = Design(raters, overlap, read.number("repeat", 0.1, 0, 1), read.number("attention", 0.05, 0, 1))
    if kind == "rating":
        design = replace(design, attention=0.0)  # a check has an expected choice
        errors += ["attention=: type=rating has no attention checks. Try: without"] * ("attention" in given)
    texts_of = {}
    for key, default in (
        ("consent", texts.CONSENT),
        ("instructions", texts.PAIRWISE if kind == "pairwise" else texts.RATING),
    ):
        try:
            texts_of[key] = texts.read_text(key, given[key]) if key in given else default
        except ConfigError as error:
            errors += error.messages
    practice = practice_rows(given.get("practice"), kind, errors)
    settings = Settings(
        title=given.get("title", "Which answer is better?" if kind == "pairwise" else "How good is this answer?"),
        type=kind,
        seed=read.integer("seed", 0, 0, 2**63 - 1),
        raters=raters,
        overlap=overlap,
        criteria=read.words("criteria", texts.CRITERIA) if kind == "rating" else (),
        reasons=read.words("reasons", texts.REASONS) if kind == "pairwise" else (),
        **texts_of,
        contact=given.get("contact", ""),
        pay=given.get("pay", ""),
        ethics=given.get("ethics", ""),
        min_attention=read.number("min_attention", 0.5, 0, 1),
        min_seconds=read.number("min_seconds", 0.0, 0, 3600),
        planned_votes=0,
        items_sha256="",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        distft=distft.__version__,
    ) if not errors else None  # fmt: skip
    items = read.integer("items", 0, 1) if "items" in given else None
    if errors or settings is None:
        raise ConfigError(errors)
    options = [f"{name}={given[name]}" for name in (*PASSED_ON, "seed") if name in given]
    return Asked(runs, answers, prompts, items, read.words("hide"), practice, tuple(options), design, settings)


def practice_rows(file: str | None, kind: str, errors: list[str]) -> list[dict[str, Any]] | None:
    """Returns the practice items of a file; None: the built-in ones."""
    if file == "none" or kind == "rating":
        return []
    if file is None:
        return None
    rows = []
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
                rows.append(row)
    except (OSError, ValueError) as error:
        errors.append(f"practice={file}: {getattr(error, 'strerror', None) or error}. Try: a JSONL file, or none")
    return rows


def write_study(study: Study, asked: Asked) -> list[str]:
    """Writes all files of a study; returns the notes for its author."""
    rng = random.Random(f"distft human_eval {asked.settings.seed}")
    systems, sides = collect(study.path, asked, rng)
    names = set().union(*(names_of(system) for system in systems))
    words, plain = hidden_words(names, asked.hide)
    hide = pattern_of(words)
    answers = matched(sides, [system.name for system in systems])
    if asked.items is not None:
        if asked.items > len(answers):
            raise ConfigError([f"items={asked.items}: there are {len(answers)} prompts. Try: items={len(answers)}"])
        chosen = sorted(rng.sample(range(len(answers)), asked.items))
    else:
        chosen = list(range(len(answers)))
    new_id = random_ids(rng)
    items, key_items, categories = [], dict[str, tuple[int, tuple[int, ...]]](), dict[str, str]()
    sizes = 2 if asked.settings.type == "pairwise" else 1
    for row in chosen:
        for group in combinations(range(len(systems)), sizes):
            order = tuple(rng.sample(group, len(group)))
            shown = tuple(shown_text(answers[row][system].completion, hide) for system in order)
            item = Item(next(new_id), shown_prompt(answers[row][0].prompt, hide), shown)
            items.append(item)
            key_items[item.id] = (row, order)
            if answers[row][0].category:
                categories[item.id] = answers[row][0].category
    rng.shuffle(items)
    practice = texts.practice_items(asked.practice, new_id)
    checks = texts.attention_items(new_id)
    items_sha256 = study.write_items([*items, *practice, *checks])
    study.write_key(Key(tuple(systems), key_items, categories))
    settings = replace(asked.settings, planned_votes=len(items) * asked.settings.overlap, items_sha256=items_sha256)
    study.write_settings(settings)
    pages: list[list[Slot]] = []
    for load in assign([item.id for item in items], settings.raters, settings.overlap, rng):
        of_load = {item: key_items[item][1] for item in load}
        pages.append(slots_of(load, of_load, checks, practice, asked.design, rng))
    write_links(study, pages)
    texts_by_system = [[answer[i].completion for answer in answers] for i in range(len(systems))]
    same = sum(len({shown_text(each.completion, None) for each in answer}) == 1 for answer in answers)
    notes = notes_on(texts_by_system, [system.name for system in systems], plain)
    notes += [f"{same} of {len(answers)} prompts got the same answer from all systems"] if same and sizes == 2 else []
    return notes


def collect(folder: Path, asked: Asked, rng: random.Random) -> tuple[list[System], list[list[Answer]]]:
    """Returns the systems and their answers, generated or copied into the study."""
    if asked.answers:
        systems = answers_of_files(asked.answers, asked.runs, folder / "answers")
        return systems, [read_answers(folder / system.answers) for system in systems]
    prompts, categories = str(asked.prompts), list[str]()
    if prompts != "eval":
        prompts, categories = split_categories(absolute(prompts), folder / "answers" / "prompts.jsonl")
    systems = answers_of_runs(asked.runs, prompts, folder / "answers", asked.options)
    sides = [read_answers(folder / system.answers) for system in systems]
    if categories:
        sides = [[replace(a, category=c) for a, c in zip(side, categories, strict=True)] for side in sides]
    return systems, sides


def split_categories(path: Path, out: Path) -> tuple[str, list[str]]:
    """Copies a prompts' file without the field category, which generate does not read; returns it and the categories.

    Malformed lines are copied as they are: generate names each.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError([f"prompts={path}: {error.strerror}. Try: a JSONL file, or prompts=eval"]) from error
    copied, categories = [], []
    for line in filter(bytes.strip, lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            categories.append(str(row.pop("category", "")))
            line = json.dumps(row).encode()
        copied.append(line)
    out.write_bytes(b"\n".join(copied) + b"\n")
    return str(out), categories if any(categories) else []


def random_ids(rng: random.Random) -> Iterator[str]:
    """Yields ids without order or meaning, none twice."""
    seen = set[str]()
    while True:
        made = f"{rng.getrandbits(48):012x}"
        if made not in seen:
            seen.add(made)
            yield made


def write_links(study: Study, pages: Sequence[Sequence[Slot]]) -> None:
    """Creates the votes' database, and links.json with the only copy of the tokens."""
    tokens, admin = Votes.create(study.votes_file, pages)
    raters = [
        {"rater": f"rater-{number:02d}", "token": token, "path": f"/r/{token}"}
        for number, token in enumerate(tokens, 1)
    ]
    write_json(study.links_file, {"raters": raters, "admin": {"token": admin, "path": f"/admin/{admin}"}})
    study.links_file.chmod(0o600)
