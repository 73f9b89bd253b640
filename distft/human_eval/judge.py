"""Agreement of an automatic judge with the raters, where both saw the same answers."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict

from distft.config.errors import ConfigError, did_you_mean, nearest
from distft.human_eval.agreement import cohen_kappa
from distft.human_eval.analysis import JudgeAgreement, JudgeRun
from distft.human_eval.answers import read_answers, shown_prompt, shown_text
from distft.human_eval.intervals import wilson
from distft.human_eval.study import Key, Study
from distft.human_eval.votes import Vote
from distft.judges import Question, available, make_judge
from distft.paths import absolute


def judge_agreement(
    asked: str, options: Mapping[str, object], votes: Sequence[Vote], key: Key, study: Study
) -> JudgeAgreement:
    """Returns how often the judge and a rater preferred the same system, ties included, with kappa and its interval.

    asked: a judge, with its options, which compares the study's answers now; or a JSONL file of objects with prompt (or
    messages) as in the answers, and winner: a system's name, or tie.
    """
    main = [(vote, *_shown(vote, key)) for vote in votes if vote.kind == "main" and vote.choice != "skip"]
    about: JudgeRun = {}
    if asked in available():
        winners, about = judged(asked, options, {(row, _sorted(pair)) for _, row, pair in main}, key, study)
    else:
        if options:
            raise ConfigError([f"{name}: has no effect with judge={asked}, a file" for name in options])
        by_prompt = read_winners(asked, key)
        prompts = [json.dumps(answer.prompt) for answer in read_answers(study.path / key.systems[0].answers)]
        winners = {(row, _sorted(pair)): by_prompt[prompts[row]] for _, row, pair in main if prompts[row] in by_prompt}
    of_judge, of_raters = [], []
    for vote, row, pair in main:
        if (winner := winners.get((row, _sorted(pair)))) is not None:
            of_judge.append(winner)
            chosen = vote.choice in ("a", "b")
            of_raters.append(key.systems[pair["ab".index(vote.choice)]].name if chosen else "tie")
    if not of_judge:
        raise ConfigError([f"judge={asked}: no prompt of it was voted on. Try: the prompts of the study's answers"])
    same = sum(one == other for one, other in zip(of_judge, of_raters, strict=True))
    found = wilson(same, len(of_judge))
    return {
        **about,
        "votes": len(of_judge),
        "agreement": found.value,
        "low": found.low,
        "high": found.high,
        "kappa": cohen_kappa(of_judge, of_raters),
    }


def _shown(vote: Vote, key: Key) -> tuple[int, tuple[int, ...]]:
    """Returns the prompt of a vote, and the systems in the order in which the rater saw them."""
    row, order = key.items[vote.item]
    return row, order[::-1] if vote.swapped else order


def _sorted(pair: tuple[int, ...]) -> tuple[int, ...]:
    return (min(pair), max(pair))


def judged(
    name: str, options: Mapping[str, object], pairs: Collection[tuple[int, tuple[int, ...]]], key: Key, study: Study
) -> tuple[dict[tuple[int, tuple[int, ...]], str], JudgeRun]:
    """Returns the winner of each pair of answers by a judge, and what its verdicts depend on and cost.

    pairs: (prompt, systems). ConfigError for wrong options, or where the judge gives up; its replies so far are kept.
    """
    from distft.judges.pairs import compare_answers

    judge, errors = make_judge(name, options)
    if judge is None or errors:
        raise ConfigError(errors)
    sides = [read_answers(study.path / system.answers) for system in key.systems]
    ordered, questions = sorted(pairs), []
    for row, (first, second) in ordered:
        turns = shown_prompt(sides[0][row].prompt, None)
        prompt = turns[0].text if len(turns) == 1 else "\n\n".join(f"{turn.role}: {turn.text}" for turn in turns)
        answers = [shown_text(sides[system][row].completion, None) for system in (first, second)]
        questions.append(Question(prompt, *answers))
    try:
        verdicts, cost = compare_answers(judge, questions, study.path / "judgments")
    except RuntimeError as error:
        raise ConfigError([str(error)]) from error
    winners = {}
    for (row, pair), verdict in zip(ordered, verdicts, strict=True):
        if verdict.winner != "unreadable":
            names = {"ours": key.systems[pair[0]].name, "theirs": key.systems[pair[1]].name, "tie": "tie"}
            winners[row, pair] = names[verdict.winner]
    return winners, {"settings": dict(judge.identity), "unreadable": len(ordered) - len(winners), "cost": asdict(cost)}


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
