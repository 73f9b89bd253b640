"""`distft human_eval analyze`: which raters count, then whose answers they preferred, with intervals.

The order matters: exclusions use the blind votes and the rules of study.json alone, and are written before the key is
opened. The same votes give the same file, byte for byte.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from distft.config.errors import ConfigError
from distft.human_eval.analysis import Analysis, Comparison, ExcludedRater, Exclusions, Look
from distft.human_eval.datasheet import datasheet
from distft.human_eval.judge import judge_agreement
from distft.human_eval.pages import passed
from distft.human_eval.power import Plan, votes_needed
from distft.human_eval.results import is_fast, results, votes_hash
from distft.human_eval.study import Item, Key, Settings, Study, find_study
from distft.human_eval.votes import Vote, Votes
from distft.judges import is_option
from distft.run import read_json, write_json

KEYS = {
    "study": "the study's folder",
    "judge": "its agreement with the raters: rule, model or endpoint, with options as JUDGE.OPTION=VALUE; or a JSONL "
    "file of objects with prompt and winner (a system's name or tie)",
}
CLAIM = """analyze: writes DIR/analysis.json and DIR/datasheet.md, and copies both to RUN/human/STUDY of each run in it.
With all planned votes the study is closed; before that the analysis is marked as interim, and counted."""

RATERS = 20  # at least, in what a conclusion says about further studies


def analyze(given: Mapping[str, str]) -> int:
    """Writes the analysis, prints its conclusions and returns 0; ConfigError without votes."""
    study = find_study(given["study"])
    settings, items = study.read_settings(), {item.id: item for item in study.read_items()}
    votes = Votes(study.votes_file)
    all_votes, undone = votes.all_votes(), votes.count_events("undo")
    if not any(vote.kind == "main" and vote.choice != "skip" for vote in all_votes):
        raise ConfigError(
            [f"study={given['study']}: holds no votes. Try: distft human_eval serve study={given['study']}"]
        )
    excluded = exclusions(all_votes, settings, items)
    complete = sum(vote.kind == "main" for vote in all_votes) == settings.planned_votes
    write_json(study.path / "exclusions.json", {**excluded, "votes_sha256": votes_hash(all_votes)})
    if complete:
        votes.close_study()
    votes.close()
    key = study.read_key()  # unblinded from here on
    result = results(study, settings, items, key, all_votes, excluded, undone)
    result["complete"] = complete
    result["looks"] = looks = look(study, votes_hash(all_votes), len(all_votes), complete)
    if "judge" in given:
        result["judge"] = judge_agreement(given["judge"], judge_options(given), all_votes, key, study)
    result["conclusions"] = found = conclusions(result, looks, complete)
    write_json(study.analysis_file, result)
    (study.path / "datasheet.md").write_text(datasheet(settings, key, result), encoding="utf-8")
    print("\n".join([f"{study.path.name}: {settings.title}", *(f"  {line}" for line in found)]))
    for folder in copy_to_runs(study, key):
        print(f"  copied to {folder}")
    print(f"  {study.analysis_file}")
    return 0


def judge_options(given: Mapping[str, str]) -> dict[str, object]:
    """Returns the options of a judge, as values of YAML."""
    return {name: yaml.safe_load(value) for name, value in given.items() if is_option(name)}


def exclusions(votes: Sequence[Vote], settings: Settings, items: Mapping[str, Item]) -> Exclusions:
    """Returns the excluded raters with reasons, by the rules that were fixed with the study; it knows no system."""
    raters: list[ExcludedRater] = []
    for name in sorted({vote.rater for vote in votes}):
        checks = [v for v in votes if v.rater == name and v.kind == "attention" and v.choice != "skip"]
        share = sum(passed(items[v.item], v.swapped, v.choice) for v in checks) / len(checks) if checks else 1.0
        if share < settings.min_attention:
            raters.append({"rater": name, "reason": f"passed {share:.0%} of {len(checks)} attention checks"})
    fast = sum(is_fast(vote, settings) for vote in votes if vote.kind == "main")
    return {
        "rules": {"min_attention": settings.min_attention, "min_seconds": settings.min_seconds},
        "raters": raters,
        "fast_votes": fast,
    }


def look(study: Study, votes_sha256: str, votes: int, complete: bool) -> list[Look]:
    """Returns all analyses of this study so far, each set of votes once, with the present one."""
    looks: list[Look] = read_json(study.looks_file) if study.looks_file.is_file() else []
    if all(each["votes_sha256"] != votes_sha256 for each in looks):
        looks.append({"votes": votes, "complete": complete, "votes_sha256": votes_sha256})
        write_json(study.looks_file, looks)
    return looks


def conclusions(result: Analysis, looks: Sequence[Look], complete: bool) -> list[str]:
    """Returns the result in sentences: also that no difference was shown, and how many votes it would need."""
    lines = []
    counts = result["counts"]
    early = [each for each in looks if not each["complete"]]
    if not complete:
        lines.append(f"interim: {counts['votes']} of {counts['planned_votes']} planned votes; a final result needs all")
    elif early:
        lines.append(f"looked at {len(early)} times before all votes were in: the intervals are too narrow for that")
    for each in result.get("comparisons", []):
        rate = each["win_rate"]
        text = f"{each['a']} against {each['b']}: wins {rate['value']:.1%} of {each['votes']} votes"
        if rate["low"] is None or rate["high"] is None:
            lines.append(f"{text}; no interval with one rater and one prompt")
            continue
        text += f" (95% interval {rate['low']:.1%} to {rate['high']:.1%}, p {each['p_holm']:.2g})"
        if rate["low"] > 0.5 or rate["high"] < 0.5:
            better = each["a"] if rate["low"] > 0.5 else each["b"]
            lines.append(f"{text}: {better} is preferred")
            continue
        ties = (each["ties"] + each["both_bad"]) / each["votes"]
        lines.append(f"{text}: no difference shown{needed(rate['value'], ties, each)}")
    lines += [each["text"] for each in result.get("ratings", [])]
    alpha = result["agreement"]["krippendorff_alpha"] if "agreement" in result else None
    if alpha and alpha["value"] is not None:
        lines.append(f"Krippendorff's alpha {alpha['value']:.2f} ({alpha['low']:.2f} to {alpha['high']:.2f})")
    if judge := result.get("judge"):
        text = f"the judge agrees with {judge['agreement']:.1%} of {judge['votes']:,} votes"
        kappa = "" if judge["kappa"] is None else f", kappa {judge['kappa']:.2f}"
        lines.append(f"{text} (95% interval {judge['low']:.1%} to {judge['high']:.1%}{kappa})")
    if out := result["exclusions"]["raters"]:
        lines.append(f"{len(out)} raters excluded, by rules fixed with the study")
    return lines


def needed(value: float, ties: float, each: Comparison) -> str:
    """Returns about how many votes would show a difference of this size; nothing near 0.5."""
    if abs(value - 0.5) < 0.005 or not ties / 2 < value < 1 - ties / 2:
        return ""
    overlap = max(1, round(each["votes"] / each["prompts"]))
    raters = max(each["raters"], RATERS)
    votes = votes_needed(Plan(effect=value, ties=ties, raters=raters, overlap=overlap))
    return f"; {votes:,} votes of {raters} raters would show one of this size with 80% power" if votes else ""


def copy_to_runs(study: Study, key: Key) -> list[Path]:
    """Copies the result to human/STUDY in the folder of each run of the study; returns those folders."""
    found = []
    for run in dict.fromkeys(system.run for system in key.systems if system.run):
        if not (Path(run) / "config.yaml").is_file():  # an exported folder
            continue
        folder = Path(run) / "human" / study.path.name
        folder.mkdir(parents=True, exist_ok=True)
        for file in (study.analysis_file, study.path / "datasheet.md"):
            shutil.copyfile(file, folder / file.name)
        found.append(folder)
    return found
