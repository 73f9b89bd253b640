"""What --help prints of commands that take overrides: groups and their words, keys and defaults, the keys of a word."""

import re
from collections.abc import Iterator, Sequence

from distft.config.check import known_keys
from distft.config.key import MISSING, covers, leaves, shown
from distft.config.parts import TARGET_GROUPS
from distft.config.schema import BY_PATH, KEYS
from distft.paths import conf_dir
from distft.run import read_yaml

_COMMENT = re.compile(r"^(\w+):.*?\s#\s(.*)$", re.MULTILINE)  # of a key at the top of a YAML file
_OF_FAMILY = ("model.path", "model.architecture", "model.tiny_architecture")  # defaults that the word decides


def help_text(name: str, own: Sequence[tuple[str, str]] = ()) -> str:
    """Returns the usage of a command that takes overrides: its own keys, the groups with their words, all keys."""
    lines = [f"usage: python -m distft.{name} [KEY=VALUE ...]", ""]
    if own:
        lines += ["own keys:", *_table(own), ""]
    file = ("config=FILE.yaml", "keys and words of your own, or of a run: they come before the command line")
    lines += ["a config file:", *_table([file]), ""]
    chosen = {group: word for each in read_yaml(conf_dir() / "config.yaml")["defaults"] for group, word in _pairs(each)}
    words = [(f"{group}=", f"{' '.join(_words(group))}{_default(chosen.get(group))}") for group in _groups()]
    lines += ["one word per group; GROUP=WORD --help shows its keys:", *_table(words), ""]
    lines += ["keys:", *_table([(key.path, f"{key.help} ({key.rule()}{_default_of(key.path)})") for key in KEYS])]
    return "\n".join(lines)


def part_text(arguments: Sequence[str]) -> str:
    """Returns the keys of each `group=word` among the arguments of --help; empty where there is none."""
    pairs = [argument.partition("=")[::2] for argument in arguments]
    parts = [_part(group, word) for group, word in pairs if group in _groups() and word in _words(group)]
    return "\n\n".join(parts)


def _part(group: str, word: str) -> str:
    """Returns what a file of the group says of itself, what it calls, and its keys with their values and help."""
    text = (conf_dir() / group / f"{word}.yaml").read_text()
    tree, comments = read_yaml(text) or {}, dict(_COMMENT.findall(text))
    values = dict(leaves(tree))
    about = next((line[2:] for line in text.splitlines() if line.startswith("# ") and "@package" not in line), None)
    lines = [f"{group}={word}", *([f"  {about}"] if about else [])]
    lines += [f"  calls {values['_target_']}"] if values.get("_target_") else []
    known = known_keys({group: tree}).keys if group in TARGET_GROUPS else ()
    names = dict.fromkeys([*values, *(path.removeprefix(f"{group}.") for path in known if covers([group], path))])
    rows = [(f"{other}={chosen}", "") for item in tree.get("defaults", ()) for other, chosen in _pairs(item)]
    for name in names:
        path = name if group == "experiment" else f"{group}.{name}"
        if path == "defaults" or path.startswith(_OF_FAMILY[1:]) or name.rpartition(".")[2].startswith("_"):
            continue
        key, value = BY_PATH.get(path), f"={shown(values[name])}" if name in values else ""
        rows.append((f"{path}{value}", f"{key.help} ({key.rule()})" if key else comments.get(name, "")))
    return "\n".join([*lines, *_table(rows)])


def _groups() -> list[str]:
    return sorted(path.name for path in conf_dir().iterdir() if path.is_dir())


def _words(group: str) -> list[str]:
    return sorted(file.stem for file in (conf_dir() / group).glob("*.yaml"))


def _pairs(item: object) -> Iterator[tuple[str, str]]:
    """Yields group and word of an item of Hydra's list of defaults."""
    for group, word in item.items() if isinstance(item, dict) else ():
        yield str(group).removeprefix("override ").lstrip("/"), str(word)


def _default(word: str | None) -> str:
    return f" (default {word})" if word and word != "None" else ""


def _default_of(path: str) -> str:
    """Returns the default of a key in words; of a part's key its word has it."""
    default = BY_PATH[path].default
    if path.partition(".")[0] in TARGET_GROUPS or path in _OF_FAMILY or default == MISSING:
        return ""
    return f"; default {shown(default) or repr(default)}"


def _table(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max((len(left) for left, _ in rows), default=0) + 2
    return [f"  {left:<{width}}{right}".rstrip() for left, right in rows]
