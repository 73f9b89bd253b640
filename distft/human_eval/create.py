"""`distft human_eval create`: answers, blind items, pages per rater, and a personal link for each."""

import json
import os
import random
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from distft.config.errors import ConfigError
from distft.human_eval import texts
from distft.human_eval.answers import (
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
)
from distft.human_eval.assignment import Slot, assign, slots_of
from distft.human_eval.create_keys import Asked, parse
from distft.human_eval.study import Item, Key, Study, System
from distft.human_eval.votes import Votes
from distft.paths import absolute
from distft.run import write_json


def create(given: Mapping[str, str]) -> int:
    """Creates a study and prints where the links are; returns 0. ConfigError with everything that is wrong."""
    folder = absolute(given["study"])
    asked = parse(given)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        with private_files():
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


@contextmanager
def private_files() -> Iterator[None]:
    """Files and folders made meanwhile are readable by this user alone."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


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
