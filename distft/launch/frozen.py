"""The rows and the model that a run was frozen with, and that it goes on with whatever has become of their files since.

Content decides, not its path: the same rows or the same model in another place are no other config, and a file that
was edited, moved or deleted takes nothing away from a run whose prepared rows are there.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distft.config.change import FREE, allowing
from distft.config.freeze import changed_keys
from distft.config.tree import at, covers
from distft.data.hub import NotFetched, local_folder
from distft.data.key import data_dir, hash_of_parts, known_parts, tokenizer_dir
from distft.data.shards import MANIFEST
from distft.paths import absolute
from distft.run import Plan, RunFolder, read_json
from distft.tensors.weight_files import content_hash

Values = dict[str, Any]
ROWS = ("data.train", "data.eval", "data.chat_template")  # may be gone where the rows have been made
MODEL = ("model.path", "model.revision")
PLACES = {"data.train": "train", "data.eval": "eval", "data.chat_template": "chat_template"}  # key -> part of data_key
PLACES |= dict.fromkeys((*MODEL, "model.tokenizer"), "tokenizer")


@dataclass(frozen=True)
class Own:
    """What a run keeps of its own."""

    plan: Plan  # as it was frozen, with the folders where its rows and its model are now
    values: Values  # of the config asked for, with the frozen places where the content is the same
    asked: Values  # of the config asked for
    lines: tuple[str, ...] = ()  # what has changed since, and is not taken
    is_gone: bool = False  # rows to be made, or a model to be fetched, once more, of the same content
    wrong: str = ""  # why they cannot be


def wants_new(values: Mapping[str, Any]) -> bool:
    """Tells whether the user has allowed the run to go on with other rows or another model."""
    return any(each.partition(".")[0] in ("data", "model") for each in values["checkpoint"]["allow_change"])


def find_own(run: RunFolder, before: Mapping[str, Any], values: Values) -> Own | None:
    """Returns what the run goes on with; None where it has nothing of its own yet, or is asked to read something else.

    before: the frozen values, in the keys that this version has. values: those asked for.
    """
    if wants_new(values) or not run.plan.is_file() or (plan := run.read_plan()).data_dir is None:
        return None
    changed = [key for key in changed_keys(before, values) if covers(("data", "model"), key) and not covers(FREE, key)]
    if any(key not in PLACES for key in changed):
        return None
    folder = rows_of(plan, values)
    live = known_parts(values)
    is_same = hash_of_parts(live) == plan.reads["data"]
    parts = live if is_same else read_json(folder / MANIFEST).get("parts", {}) if folder else {}
    if any(parts.get(PLACES[key], ...) != live.get(PLACES[key]) for key in changed):
        return None
    model = model_of(plan, values, moved=any(key in MODEL for key in changed))
    if model is None and any(key in MODEL for key in changed):
        return None
    kept = values | {group: dict(values[group]) for group in ("data", "model")}
    for key in changed:
        group, _, name = key.partition(".")
        kept[group][name] = at(before, key)
    places = {"data_dir": folder and str(folder), "model_dir": model and str(model)}
    plan = replace(plan, **places, tokenizer_dir=_tokenizer(values) or plan.tokenizer_dir)
    if folder is None and not is_same:
        which = f"name={run.path.name}: its prepared rows {plan.reads['data']} are gone from {values['cache_dir']}"
        return Own(plan, kept, values, wrong=f"{which}, and what they were made of is not what it was")
    is_gone = folder is None or (model is None and plan.model_dir is not None)
    return Own(plan, kept, values, tuple(_news(parts, live, values)), is_gone)


def kept_rows(values: Mapping[str, Any]) -> Values:
    """Returns, by key, the frozen places of which the run of a config has made its rows, where the same are asked for.

    Nothing there needs to exist any more. values: of a config that has not been checked yet.
    """
    try:
        folder = absolute(values["runs_dir"]) / str(values["name"])
        jobs = sorted(folder.glob("[0-9][0-9][0-9]*-*/plan.json"))[:1]  # of a sweep
        run = RunFolder(jobs[0].parent if jobs else folder)
        if wants_new(values) or not run.plan.is_file() or rows_of(run.read_plan(), values) is None:
            return {}
        before = run.read_config()
        return {key: at(before, key) for key in ROWS if _is_place(at(values, key), at(before, key))}
    except (KeyError, TypeError, AttributeError, ValueError, OSError):  # the checks that follow report it
        return {}


def rows_of(plan: Plan, values: Mapping[str, Any]) -> Path | None:
    """Returns the folder of a plan's prepared rows: where they were, else in the cache that is asked for now."""
    if plan.data_dir is None:
        return None
    places = (Path(plan.data_dir), data_dir(dict(values), plan.reads["data"]))
    return next((folder for folder in places if (folder / MANIFEST).is_file()), None)


def model_of(plan: Plan, values: Values, *, moved: bool) -> Path | None:
    """Returns the folder with the plan's model: the one that is asked for now, else, unless it was moved, where it was.

    None for a random instance, and where there is no such folder or, if it was moved, none of the same content.
    """
    if plan.model_dir is None:
        return None
    model, places = values["model"], [] if moved else [Path(plan.model_dir)]
    with suppress(NotFetched):
        places.insert(0, local_folder(model["path"], model["revision"], values["cache_dir"]))
    there = [folder for folder in places if folder.is_dir()]
    if plan.model_hash is None:  # frozen before there was one
        return there[0] if there and not moved else None
    others = None if moved or not there else there[0]  # whose content the plan refuses in words
    return next((folder for folder in there if content_hash(folder) == plan.model_hash), others)


def _tokenizer(values: Values) -> str | None:
    try:
        folder = tokenizer_dir(values)
    except NotFetched:
        return None
    return str(folder) if folder and folder.is_dir() else None


def _is_place(asked: Any, frozen: Any) -> bool:
    """Tells whether the same files are meant: those frozen are absolute paths."""
    if isinstance(frozen, list):
        return isinstance(asked, list) and len(asked) == len(frozen) and all(map(_is_place, asked, frozen))
    return isinstance(asked, str) and frozen in (asked, str(absolute(asked)))


def _news(parts: Mapping[str, Any], live: Mapping[str, Any], values: Values) -> list[str]:
    """Returns a line for each thing that has changed since the rows were made of it; none where that is not known."""
    more = allowing(values["checkpoint"]["allow_change"], ["data"])
    goes_on = f"the run goes on with the rows it has. For new ones: another name, or {more}"
    lines = []
    tokenizer = "model.tokenizer" if values["model"]["tokenizer"] else "model.path"
    for key in (*ROWS, tokenizer):
        part = PLACES[key]
        if part in parts and parts[part] != live.get(part):
            what = "has changed" if part in live else "is gone"
            whose = "the tokenizer of " if part == "tokenizer" else ""
            lines.append(f"{whose}{key}={at(values, key)} {what} since: {goes_on}")
    return lines
