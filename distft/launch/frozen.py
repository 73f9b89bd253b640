"""The frozen inputs of a run: the prepared rows and the model that it resumes with, even if their sources have changed.

They are identified by content, not by path: the same rows or model at another path are no change, and a source file
that was edited, moved or deleted does not matter while the prepared rows exist.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distft.config.freeze import FREE, allowing, changed_keys
from distft.config.key import Values, at, covers
from distft.data.hub import NotFetched, local_folder
from distft.data.key import data_dir, hash_of_parts, known_parts, tokenizer_dir
from distft.data.shards import MANIFEST
from distft.paths import absolute
from distft.run import Plan, RunFolder, read_json
from distft.tensors.weight_files import content_hash

ROWS = ("data.train", "data.eval", "data.chat_template")  # not needed once the rows are prepared
MODEL = ("model.path", "model.revision")
PLACES = {"data.train": "train", "data.eval": "eval", "data.chat_template": "chat_template"}  # key -> part of data_key
PLACES |= dict.fromkeys((*MODEL, "model.tokenizer"), "tokenizer")


@dataclass(frozen=True)
class Own:
    """The frozen inputs that a run resumes with."""

    plan: Plan  # the frozen plan, with the current folders of rows and model
    values: Values  # requested, with the frozen paths where the content is the same
    asked: Values  # as requested
    lines: tuple[str, ...] = ()  # changed sources, which are not used
    is_gone: bool = False  # rows to prepare, or a model to fetch, again with the same content
    wrong: str = ""  # why that is impossible


def wants_new(values: Mapping[str, Any]) -> bool:
    """Returns whether the user allows the run to resume with other rows or another model."""
    return any(each.partition(".")[0] in ("data", "model") for each in values["checkpoint"]["allow_change"])


def find_own(run: RunFolder, before: Mapping[str, Any], values: Values) -> Own | None:
    """Returns the frozen inputs of the run; None if it has none yet, or other inputs are requested.

    before: the frozen values, in the keys of this version. values: the requested ones.
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
        return Own(plan, kept, values, wrong=f"{which}, and their source files have changed")
    is_gone = folder is None or (model is None and plan.model_dir is not None)
    return Own(plan, kept, values, tuple(_news(parts, live, values)), is_gone)


def kept_rows(values: Mapping[str, Any]) -> Values:
    """Returns key -> frozen path of the sources of a run's rows, for the keys that request the same files.

    The files need not exist any more. values: of a config that is not validated yet.
    """
    try:
        folder = absolute(values["runs_dir"]) / str(values["name"])
        jobs = sorted(folder.glob("[0-9][0-9][0-9]*-*/plan.json"))[:1]  # of a sweep
        run = RunFolder(jobs[0].parent if jobs else folder)
        if wants_new(values) or not run.plan.is_file() or rows_of(run.read_plan(), values) is None:
            return {}
        before = run.read_config()
        return {key: at(before, key) for key in ROWS if _is_place(at(values, key), at(before, key))}
    except (KeyError, TypeError, AttributeError, ValueError, OSError):  # later checks report it
        return {}


def rows_of(plan: Plan, values: Mapping[str, Any]) -> Path | None:
    """Returns the folder of a plan's prepared rows: the frozen one, else the one in the requested cache."""
    if plan.data_dir is None:
        return None
    places = (Path(plan.data_dir), data_dir(dict(values), plan.reads["data"]))
    return next((folder for folder in places if (folder / MANIFEST).is_file()), None)


def model_of(plan: Plan, values: Values, *, moved: bool) -> Path | None:
    """Returns the folder of the plan's model: the requested one, else, unless `moved`, the frozen one.

    None for a random instance, a missing folder or, if `moved`, other content.
    """
    if plan.model_dir is None:
        return None
    model, places = values["model"], [] if moved else [Path(plan.model_dir)]
    with suppress(NotFetched):
        places.insert(0, local_folder(model["path"], model["revision"], values["cache_dir"]))
    there = [folder for folder in places if folder.is_dir()]
    if plan.model_hash is None:  # frozen by an older version
        return there[0] if there and not moved else None
    others = None if moved or not there else there[0]  # make_plan rejects its content with a message
    return next((folder for folder in there if content_hash(folder) == plan.model_hash), others)


def _tokenizer(values: Values) -> str | None:
    try:
        folder = tokenizer_dir(values)
    except NotFetched:
        return None
    return str(folder) if folder and folder.is_dir() else None


def _is_place(asked: Any, frozen: Any) -> bool:
    """Returns whether both name the same files; frozen paths are absolute."""
    if isinstance(frozen, list):
        return isinstance(asked, list) and len(asked) == len(frozen) and all(map(_is_place, asked, frozen))
    return isinstance(asked, str) and frozen in (asked, str(absolute(asked)))


def _news(parts: Mapping[str, Any], live: Mapping[str, Any], values: Values) -> list[str]:
    """Returns a line per source that has changed since the rows were prepared; empty if that is unknown."""
    more = allowing(values["checkpoint"]["allow_change"], ["data"])
    goes_on = f"the run continues with its prepared rows. For new rows: another name, or {more}"
    lines = []
    tokenizer = "model.tokenizer" if values["model"]["tokenizer"] else "model.path"
    for key in (*ROWS, tokenizer):
        part = PLACES[key]
        if part in parts and parts[part] != live.get(part):
            what = "has changed" if part in live else "is gone"
            whose = "the tokenizer of " if part == "tokenizer" else ""
            lines.append(f"{whose}{key}={at(values, key)} {what} since: {goes_on}")
    return lines
