"""`distft human_eval export`: votes as preference rows, which `data=preference` reads and `loss=dpo` trains on."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypedDict

from distft.config.errors import ConfigError
from distft.human_eval.analyze import exclusions
from distft.human_eval.answers import Answer, messages_of, read_answers
from distft.human_eval.arguments import Arguments
from distft.human_eval.results import is_fast
from distft.human_eval.study import Key, find_study
from distft.human_eval.votes import Vote, Votes
from distft.paths import absolute, why_not_writable
from distft.run import json_text

KEYS = {
    "study": "the study's folder",
    "out": "the JSONL file to write; replaced when it exists",
    "votes": "majority (default): a row for each item that most raters decided alike; all: a row for each decided vote",
}
CLAIM = "export: writes preference rows of prompt, chosen and rejected, with the answers as they were generated."


class Preference(TypedDict):
    """A row of a preference file: texts, or messages where the prompt has messages."""

    prompt: str | list[dict[str, str]]
    chosen: str | list[dict[str, str]]
    rejected: str | list[dict[str, str]]


def export(given: Mapping[str, str]) -> int:
    """Writes the rows and returns 0; ConfigError when no vote decided between two answers."""
    read = Arguments(given)
    which = read.choice("votes", ("majority", "all"))
    out = absolute(given["out"])
    if why := (f"{out} is a folder" if out.is_dir() else why_not_writable(out.parent)):
        read.errors.append(f"out={given['out']}: {why}. Try: out=votes.jsonl")
    if read.errors:
        raise ConfigError(read.errors)
    study = find_study(given["study"])
    settings = study.read_settings()
    if settings.type != "pairwise":
        raise ConfigError([f"study={given['study']}: type={settings.type} has no preferences. Allowed: type=pairwise"])
    votes = Votes(study.votes_file)
    all_votes = votes.all_votes()
    votes.close()
    excluded = exclusions(all_votes, settings, {item.id: item for item in study.read_items()})
    raters_out = {each["rater"] for each in excluded["raters"]}
    counted = [v for v in all_votes if v.kind == "main" and v.rater not in raters_out and not is_fast(v, settings)]
    key = study.read_key()
    sides = [{answer.key: answer for answer in read_answers(study.path / system.answers)} for system in key.systems]
    decided = [(vote.item, winner) for vote in counted if (winner := winner_of(vote, key)) is not None]
    keys = list(sides[0])
    chosen = majority(decided) if which == "majority" else decided
    rows = [row for each in chosen if (row := row_of(key, sides, keys, each)) is not None]
    if not rows:
        raise ConfigError([f"study={given['study']}: no vote decided between two different answers. Try: more votes"])
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    partial.write_text("".join(json_text(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    partial.replace(out)
    print(f"{study.path.name}: {len(rows)} preference rows from {len(decided)} decided votes")
    print(f"  {out}")
    return 0


def winner_of(vote: Vote, key: Key) -> int | None:
    """Returns the system that a vote prefers; None for a tie, both bad or skip."""
    if vote.choice not in ("a", "b"):
        return None
    order = key.items[vote.item][1]
    return (order[::-1] if vote.swapped else order)["ab".index(vote.choice)]


def majority(decided: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Returns the winner of each item with more votes for one system than for the other."""
    by_item: dict[str, Counter[int]] = {}
    for item, winner in decided:
        by_item.setdefault(item, Counter())[winner] += 1
    found = []
    for item, counts in by_item.items():
        ranked = counts.most_common(2)
        if len(ranked) == 1 or ranked[0][1] > ranked[1][1]:
            found.append((item, ranked[0][0]))
    return found


def row_of(
    key: Key, sides: Sequence[Mapping[str, Answer]], keys: Sequence[str], choice: tuple[str, int]
) -> Preference | None:
    """Returns a preference row; None where an answer is empty or both are equal, which no loss can learn from.

    sides: the answers of each system by key. keys: those of the first, by row. choice: an item and the preferred
    system. Messages stay messages, and rendered ones become messages again: training renders them.
    """
    item, winner = choice
    row, order = key.items[item]
    [loser] = [system for system in order if system != winner]
    first = keys[row]
    prompt = sides[0][first].prompt
    chosen, rejected = (sides[system][first].completion for system in (winner, loser))
    if not chosen.strip() or not rejected.strip() or chosen == rejected:
        return None
    messages = messages_of(prompt)
    if messages is None:
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    replies = [[{"role": "assistant", "content": text}] for text in (chosen, rejected)]
    return {"prompt": messages, "chosen": replies[0], "rejected": replies[1]}
