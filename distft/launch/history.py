"""What a run resumes with, even if sources have changed: frozen config, checkpoint, prepared rows and model.

Rows and models are identified by content, not by path: the same rows or model at another path are no change, and a
source file that was edited, moved or deleted does not matter while the prepared rows exist. A checkpoint that
`checkpoint.resume` names by path may belong to another run: then that run's config applies.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from distft.checkpoint.choose import candidates
from distft.checkpoint.format import Damaged, read_manifest
from distft.config import Config, ConfigError
from distft.config.compose import Groups
from distft.config.freeze import (
    FREE,
    Frozen,
    allowing,
    changed_keys,
    chosen_words,
    difference,
    keys_said,
    meanings,
    parse_config,
    refusal,
)
from distft.config.key import Values, at, covers, implied
from distft.config.overrides import long_form, split
from distft.config.parts import TRACKER, named_tracker
from distft.config.rules import broken_rules
from distft.config.rules.contract import Facts
from distft.data.hub import NotFetched, local_folder
from distft.data.key import data_dir, hash_of_parts, known_parts, tokenizer_dir
from distft.data.shards import MANIFEST
from distft.paths import absolute, conf_dir
from distft.run import FINISHED, Plan, RunFolder, read_json
from distft.tensors.weight_files import content_hash

Manifest = Mapping[str, Any]
OF_THE_LAUNCH = ("tracker", "launcher.wait", "launcher.grace_seconds")  # keys that only the launching process reads
ROWS = ("data.train", "data.eval", "data.chat_template")  # not needed once the rows are prepared
MODEL = ("model.path", "model.revision")
PLACES = {
    "data.train": "train",
    "data.eval": "eval",
    "data.chat_template": "chat_template",
    "data.prompt_template": "prompt_template",
}  # key -> part of data_key
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


def keep_frozen(run: RunFolder, config: Config, *, sweep: bool = False) -> tuple[Config, list[str]]:
    """Returns the config with the run's frozen values in place of changed defaults, and a line for each of them.

    ConfigError when a requested value conflicts with a frozen one. sweep: the run is a job of a sweep.
    """
    before = frozen_before(run, config)
    values, lines = before.kept_by(config) if before else ({}, [])
    if not lines:
        return config, []
    if wrong := list(broken_rules(Facts(values, config.choices, config.given, sweep), ())):
        kept = f"name={run.path.name}: {run.path} keeps its frozen values. Try: give the value that is to change"
        raise ConfigError([*wrong, "\n    ".join([kept, *lines])])
    return config.with_values(values), lines


def check_config(run: RunFolder, config: Config) -> None:
    """Raises ConfigError with the differences when the run would resume with a change that is not allowed."""
    if (run.path / "sweep_status.json").is_file():
        raise ConfigError([f"name={run.path.name}: {run.path} holds a sweep. Try: another name, or -m"])
    before, found = frozen_before(run, config), run_before(run, config)
    what = f"name={run.path.name}: {run.path}"
    if found and found != run:
        what = f"checkpoint.resume={config.values['checkpoint']['resume']}: it is of {found.path}, which"
    if before is None:
        return
    if reason := refusal(before.aligned(config), config.values, what, before.in_words(config), config.gave_way):
        raise ConfigError([reason])


def check_followed(run: RunFolder, config: Config, name: str) -> None:
    """Raises ConfigError when `name` already runs the run with a different config."""
    before = frozen_before(run, config)
    changes = before.in_words(config) if before else difference({}, config.values)
    others = [line for line in changes if not covers(OF_THE_LAUNCH, line.partition(":")[0])]
    if others:
        first = f"name={run.path.name}: {name} runs it with a different config. Try: another name, or touch {run.stop}"
        raise ConfigError(["\n    ".join([first, *others])])


def config_before(run: RunFolder, config: Config) -> Values | None:
    """Returns the frozen values that the run resumes from, in the keys of this version."""
    before = frozen_before(run, config)
    return before.aligned(config) if before else None


def run_before(run: RunFolder, config: Config) -> RunFolder | None:
    """Returns the run that this one goes on from: itself, else the one whose checkpoint it is to resume."""
    resume = config.checkpoint.resume
    runs = [run]
    if resume not in ("auto", "never"):
        runs.append(RunFolder(absolute(resume).parents[1]))
    return next((each for each in runs if each.config.is_file()), None)


def own_of(run: RunFolder, config: Config) -> Own | None:
    """Returns the frozen inputs of the run, unless it has none or others are requested."""
    found, before = run_before(run, config), config_before(run, config)
    return find_own(found, before, config.values) if found and before else None


def frozen_before(run: RunFolder, config: Config) -> Frozen | None:
    """Returns the frozen config that the run resumes from."""
    found = run_before(run, config)
    if found is None:
        return None
    text = found.config.read_text()
    words, said = chosen_words(text), keys_said(text)
    return Frozen(parse_config(text).values, words, said if said is not None else _given(found, words))


def _given(run: RunFolder, words: Mapping[str, str]) -> frozenset[str] | None:
    """Returns the keys set by the run's command line and experiment; None without a recorded command."""
    try:
        overrides = [split(text) for text in run.read_commands()[-1][3:]]  # after python -m distft.launch
        groups = Groups(conf_dir())
        experiment = groups.keys_of_experiment(words.get("experiment"))
    except (OSError, ValueError, IndexError):
        return None
    trackers = words.get(TRACKER, "").strip("[]").split(",")
    keys = {named_tracker(long_form(each).key, trackers) for each in overrides if not groups.has(each)}
    return implied(keys | experiment)


def is_done(run: RunFolder, config: Config) -> bool:
    """Returns whether the run has finished and the config requests no more steps."""
    finished = run.read_status()["state"] in FINISHED
    return finished and not meanings(config_before(run, config) or {}, config.values)


def resumed(run: RunFolder, config: Config) -> Manifest | None:
    """Returns the manifest of the checkpoint to go on from; ConfigError when the one that is named has none."""
    resume = config.checkpoint.resume
    for folder in candidates(run.checkpoints, resume):
        try:
            return read_manifest(folder)
        except Damaged as error:
            if folder == Path(resume):
                there = next(iter(candidates(run.checkpoints, "auto")), "auto")
                raise ConfigError([f"checkpoint.resume={resume}: {error}. Try: {there}"]) from error
    return None


def check_plan(plan: Plan, run: RunFolder, config: Config, manifest: Manifest | None) -> None:
    """Raises ConfigError when the plan reads other data than the checkpoint, or ends before it."""
    if manifest is None:
        return
    which, done = f"name={run.path.name}: {run.path}", manifest["step"]
    check_model(plan, run, config, manifest)
    allowed, before, now = config.checkpoint.allow_change, manifest["reads"]["data"], plan.reads["data"]
    if before != now and not any(each.partition(".")[0] in ("data", "model") for each in allowed):
        first = f"{which} would resume with other rows: a file, the tokenizer or the template differs"
        raise ConfigError([f"{first}. Try: another name, or {allowing(allowed, ['data'])}"])
    end = min(plan.steps, config.train.max_steps or plan.steps)
    if end < done:
        raise ConfigError([f"{which} has done {done} steps, this config ends after {end}. Try: {done}"])


def check_model(plan: Plan, run: RunFolder, config: Config, manifest: Manifest) -> None:
    """Raises ConfigError when a changed model or tuning does not match the checkpoint's parameters, so that no rank can
    load it. Without a change nothing is counted: the plan's numbers may be inexact."""
    changed = meanings(config_before(run, config) or {}, config.values)
    trained = plan.parameters if plan.adapters is None else plan.adapters
    shapes = manifest.get("tensors", {}).get("parameter", {})
    holds = sum(prod(shape) for shape in shapes.values())
    if holds == trained or not trained or not holds or not any(covers(("model", "tuning"), key) for key in changed):
        return
    found = run_before(run, config) or run
    first = f"name={run.path.name}: this config trains {trained:,} parameters, the checkpoint of {found.path} holds"
    start = f"Try: another name, and to start from its result model.path={found.final}"
    raise ConfigError([f"{first} {holds:,}: a run resumes only with its model and tuning. {start}"])


def archive_previous(run: RunFolder, text: str) -> None:
    """Archives a run's previous config, and its result if it had finished, before config `text` is written."""
    status = run.read_status()
    if run.config.is_file() and run.config.read_text() != text:
        os.replace(run.config, run.path / f"config.attempt-{status['attempt']}.yaml")
    if status["state"] in FINISHED:
        for result in (run.final, run.path / "report.html"):
            if result.exists():
                os.replace(result, result.with_name(f"{result.stem}-step-{status['step']}{result.suffix}"))


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
    live = known_parts(Config.of(values))
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
    places = {"data_dir": str(folder) if folder else None, "model_dir": str(model) if model else None}
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
    places = (Path(plan.data_dir), data_dir(values["cache_dir"], plan.reads["data"]))
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
        folder = tokenizer_dir(Config.of(values))
    except NotFetched:
        return None
    return str(folder) if folder and folder.is_dir() else None


def _is_place(asked: Any, frozen: Any) -> bool:
    """Returns whether both name the same files; frozen paths are absolute."""
    if isinstance(frozen, list):
        return isinstance(asked, list) and len(asked) == len(frozen) and all(map(_is_place, asked, frozen))
    if isinstance(frozen, Mapping):
        same = isinstance(asked, Mapping) and {**asked, "path": None} == {**frozen, "path": None}
        return same and _is_place(asked["path"], frozen["path"])
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
