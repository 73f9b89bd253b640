"""Agreement of an automatic judge with the raters, where both saw the same answers."""

import json
from collections.abc import Sequence
from typing import Any

from distft.config.errors import ConfigError, did_you_mean, nearest
from distft.human_eval.agreement import cohen_kappa
from distft.human_eval.answers import read_answers
from distft.human_eval.intervals import wilson
from distft.human_eval.study import Key, Study
from distft.human_eval.votes import Vote
from distft.paths import absolute


def judge_agreement(file: str, votes: Sequence[Vote], key: Key, study: Study) -> dict[str, Any]:
    """Returns how often the judge and a rater preferred the same system, ties included, with kappa and its interval.

    file: JSONL of objects with prompt (or messages) as in the answers, and winner: a system's name, or tie.
    """
    winners = read_winners(file, key)
    prompts = [json.dumps(answer.prompt) for answer in read_answers(study.path / key.systems[0].answers)]
    of_judge, of_raters = [], []
    for vote in votes:
        if vote.kind != "main" or vote.choice == "skip":
            continue
        row, order = key.items[vote.item]
        shown = order[::-1] if vote.swapped else order
        if (winner := winners.get(prompts[row])) is not None:
            of_judge.append(winner)
            chosen = vote.choice in ("a", "b")
            of_raters.append(key.systems[shown["ab".index(vote.choice)]].name if chosen else "tie")
    if not of_judge:
        raise ConfigError([f"judge={file}: no prompt of it was voted on. Try: the prompts of the study's answers"])
    same = sum(one == other for one, other in zip(of_judge, of_raters, strict=True))
    found = wilson(same, len(of_judge))
    about = {"votes": len(of_judge), "agreement": found.value, "low": found.low, "high": found.high}
    return about | {"kappa": cohen_kappa(of_judge, of_raters)}


def read_winners(file: str, key: Key) -> dict[str, str]:
    """Returns the winner by prompt; ConfigError with file and line of all malformed lines."""
    allowed = [*(system.name for system in key.systems), "tie"]
    winners, errors = dict[str, str](), []
    try:
        lines = absolute(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"judge={file}: {getattr(error, 'strerror', None) or 'is not UTF-8'}"]) from error
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            prompt, winner = row.get("messages", row.get("prompt")), row.get("winner")
        except (ValueError, AttributeError):
            errors.append(f"{file}:{number}: expected an object with prompt and winner")
            continue
        if winner not in allowed:
            meant = did_you_mean(nearest(str(winner), allowed))
            errors.append(f"{file}:{number}: winner is {winner!r}.{meant} Allowed: {', '.join(allowed)}")
        winners[json.dumps(prompt)] = str(winner)
    if errors:
        raise ConfigError(errors[:10])
    return winners
