"""`distft audit`: what biases and privacy risks training data hold, and what training changed in a model."""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from distft.audit.dataset import CONTAMINATION, LANGUAGE, PRIVACY, TOXICITY, Found
from distft.audit.dataset import audit_rows, make_looking, read_dropped, read_views
from distft.audit.licences import USES, Use, licences, of_folder
from distft.audit.mentions import ALL
from distft.audit.measures import ANY, Measure, flags_asked_for, write_measures
from distft.audit.terms import Terms, load_terms
from distft.config import Config, ConfigError, command, compose, read_config
from distft.config.command import find_run, keywords, usage
from distft.config.errors import did_you_mean, nearest
from distft.config.source_item import source_items
from distft.paths import absolute, why_not_writable
from distft.run import EXIT_CLOSED_GATE, RunFolder

KEYS = {
    "data": "rows to audit: a file, folder, pattern or hub id as for data.train, or a run's folder: its training rows",
    "run": "the run whose model to audit against its base model",
    "out": "the folder for audit.json (default for run=: RUN/audit)",
    "terms": "a YAML file of groups and attributes in place of distft's own list",
    "clean": "with data=FILE: cleaning rules whose effect on groups is measured, such as sft",
    "against": "with data=: a file or pattern of benchmark rows; near-copies of them are counted",
    "format": "with data=FILE: the format of the rows (default: told from their fields)",
    "use": f"the intended use that licences are read for: {', '.join(USES)} (default: {USES[0]})",
    "fail_on": f"flags that make the exit code {EXIT_CLOSED_GATE}: any, axes or measures, such as [gender, rows_with]",
}
CLAIM = """Writes audit.json, a list of {axis, measure, base, tuned, low, high, n, flag, limits}; there is no overall score.
data=: mentions of groups, their company, languages, personal data, licences, and what each cleaning rule drops."""
SHOWN = 40  # lines on the terminal


def main(arguments: list[str]) -> int:
    """Writes audit.json and prints what is flagged; returns 3 for a flag of fail_on, 0 otherwise."""
    given = keywords(arguments, KEYS, required=())
    errors = []
    if ("data" in given) == ("run" in given):
        errors.append("one of data= and run= is needed. Try: data=rows.jsonl out=audit, or run=runs/NAME")
    if "data" in given and "out" not in given:
        errors.append("out=: is missing, the folder for audit.json. Try: out=audit")
    if "out" in given and (why := why_not_writable(absolute(given["out"]))):
        errors.append(f"out={given['out']}: {why}. Try: out=audit")
    use = given.get("use", USES[0])
    if use not in USES:
        errors.append(f"use={use}: is not a use.{did_you_mean(nearest(use, USES))} Allowed: {', '.join(USES)}")
    asked = fail_on(given.get("fail_on"), errors)
    try:
        terms = load_terms(absolute(given["terms"]) if "terms" in given else None)
    except ConfigError as error:
        errors += error.messages
    if errors:
        raise ConfigError(errors)
    found, notes = audit_data(given, terms, use)
    return report(found, notes, absolute(given["out"]), asked)


def fail_on(text: str | None, errors: list[str]) -> list[str]:
    """Returns the axes and measures of fail_on, a word or a list."""
    if text is None:
        return []
    try:
        value = yaml.safe_load(re.sub(r",(?=\S)", ", ", text))
    except yaml.YAMLError:
        value = None
    words = value if isinstance(value, list) else [value]
    if not words or not all(isinstance(word, str) and word for word in words):
        errors.append(f"fail_on={text}: is a word or a list of words. Try: fail_on={ANY}, or fail_on=[gender, privacy]")
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


def audit_data(given: Mapping[str, str], terms: Terms, use: Use) -> tuple[list[Measure], list[str]]:
    """Returns the measures of the rows that data= names, and notes."""
    rows = find_rows(given)
    against = [given["against"]] if "against" in given else []
    try:
        looking = make_looking(against)
        found = audit_rows(read_views(rows.config), terms, looking, read_dropped(rows.prepared) if rows.prepared else {})
    except ValueError as error:
        raise ConfigError(str(error).replace("data.train=", "data=").splitlines()) from error
    measures = found.measures(is_cleaned=rows.prepared is not None)
    measures += licences(rows.items(), rows.counts(found), use, rows.model_licence)
    notes = [*looking.notes, f"{found.rows:,} rows, {found.num_dropped:,} of them dropped by cleaning"]
    return measures, notes


@dataclass(frozen=True)
class DataRows:
    """Rows to audit. prepared: folder of the data stage with what it dropped; None: the rows were not cleaned."""

    config: Config
    prepared: Path | None = None
    model_licence: str | None = None

    def items(self):  # noqa: ANN201
        return source_items(self.config.data.train)

    def counts(self, found: Found) -> list[int]:
        """Returns the rows of each item, by the files that lie under its path."""
        return [
            sum(count for file, count in found.items.items() if file.startswith(str(absolute(item.path)).rstrip("*")))
            for item in self.items()
        ]


def find_rows(given: Mapping[str, str]) -> DataRows:
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
    config = compose(words)
    if "clean" not in given:
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
