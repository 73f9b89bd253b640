"""The tables of docs/config.md; `python -m distft.config.reference docs/config.md` makes them anew."""

import sys
from pathlib import Path

from distft.config.errors import NOT_OURS, OURS
from distft.config.key import ANY, KEEP, WINS, shown
from distft.config.rules import RULES
from distft.config.schema import KEYS


def key_table() -> str:
    """Returns every key with what it does and what it may be."""
    rows = [f"| `{key.path}` | {_cell(key.help)} | {key.rule()} |" for key in KEYS]
    return "\n".join(["| key | what it does | value |", "|---|---|---|", *rows])


def rule_table() -> str:
    """Returns every combination that is refused, with its keys and the reason."""
    rows = [f"| {', '.join(f'`{key}`' for key in rule.keys)} | {rule.refused} | {rule.because} |" for rule in RULES]
    return "\n".join(["| keys | refused | because |", "|---|---|---|", *rows])


def typed_table() -> str:
    """Returns every pair of keys of which one gives way to the other."""
    rows = []
    for row in WINS:
        value = "" if row.value is ANY else f"={shown(row.value)}"
        then = "has no effect" if row.becomes is KEEP else f"is {shown(row.becomes)}"
        both = "the first that is reached ends the run" if row.together else "refused where they clash"
        rows.append(f"| `{row.key}{value}` | `{row.over}` | {then} | {both} |")
    return "\n".join(["| set | gives way | and then | both set |", "|---|---|---|---|", *rows])


def names_table() -> str:
    """Returns the keys of other trainers by ours, and what to do in place of those without a counterpart."""
    theirs: dict[str, list[str]] = {}
    for name, ours in [*OURS.items(), *NOT_OURS.items()]:
        theirs.setdefault(f"`{ours}`" if name in OURS else ours, []).append(f"`{name}`")
    rows = [f"| {', '.join(names)} | {ours} |" for ours, names in theirs.items()]
    return "\n".join(["| elsewhere | here |", "|---|---|", *rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


TABLES = {"names": names_table, "keys": key_table, "typed": typed_table, "rules": rule_table}


def refreshed(text: str) -> str:
    """Returns `text` with what stands between `<!-- NAME -->` and `<!-- /NAME -->` made anew for every table."""
    for name, table in TABLES.items():
        start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, after = text.split(start)[0], text.split(end)[1]
        text = f"{before}{start}\n{table()}\n\n{end}{after}"
    return text


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(refreshed(page.read_text()))
