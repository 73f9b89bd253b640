"""The command's own keys beside a run's overrides, and what is refused before anything runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from distft.config import Config, ConfigError, compose, difference
from distft.config.command import keywords
from distft.config.nearest import did_you_mean, nearest
from distft.paths import absolute
from distft.verify_resume.kills import MOMENTS

KEYS = {
    "kills": f"where: a list of {', '.join(MOMENTS)}, or a number of random ones; default: one of each",
    "at": "their steps, one for each kill; default: spread over the run",
    "then": "overrides from the first resume on, e.g. [strategy=zero2,launcher.processes_per_node=1]",
    "out": "folder for the runs; default: RUNS_DIR/verify-resume",
}
LAYOUT = ("strategy", "launcher", "train.micro_batch_size", "train.micro_batch_tokens", "data.packing")


@dataclass(frozen=True)
class Asked:
    """What to run, where to kill it, and how to go on."""

    config: Config
    later: Config
    overrides: list[str]
    kills: list[str] | int | None
    at: list[int] | None
    out: Path

    @property
    def same_layout(self) -> bool:
        return self.config.values == self.later.values


def read_arguments(arguments: Sequence[str]) -> Asked:
    """Returns what the command line asks for; ConfigError with what is wrong with it."""
    mine = [text for text in arguments if text.partition("=")[0] in KEYS]
    overrides = [text for text in arguments if text not in mine]
    given = {key: _parsed(key, value) for key, value in keywords(mine, KEYS, required=()).items() if key != "out"}
    config = compose(overrides)
    later = compose([*overrides, *given["then"]]) if given.get("then") else config
    out = absolute(next((t.partition("=")[2] for t in mine if t.startswith("out=")), _default_out(config)))
    errors = [*_not_resumable(config), *_not_layout(config, later)]
    errors += [f"out={out}: exists already. Try: out={_free(out)}"] if out.exists() else []
    if errors:
        raise ConfigError(errors)
    return Asked(config, later, overrides, given.get("kills"), given.get("at"), out)


def _parsed(key: str, text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    many = value if isinstance(value, list) else [value]
    if key == "kills":
        if isinstance(value, int) and value > 0:
            return value
        unknown = [each for each in many if each not in MOMENTS]
        if unknown:
            meant = did_you_mean(nearest(str(unknown[0]), MOMENTS))
            raise ConfigError([f"kills={text}: is no number of kills, and no list of {', '.join(MOMENTS)}.{meant}"])
    elif key == "at" and not all(isinstance(each, int) and each > 0 for each in many):
        raise ConfigError([f"at={text}: is no list of steps. Try: at=[2,4]"])
    elif key == "then" and not all(isinstance(each, str) for each in many):
        raise ConfigError([f"then={text}: is no list of overrides. Try: then=[strategy=zero2]"])
    return many


def _not_resumable(config: Config) -> list[str]:
    settings = config.values["checkpoint"]
    errors = []
    if settings["resume"] != "auto":
        errors.append(f"checkpoint.resume={settings['resume']}: the killed run resumes its own. Try: auto")
    if settings["every_steps"] is None:
        text = "the clock saves at other steps each time. Try: checkpoint.every_steps=2"
        errors.append(f"checkpoint.every_steps=null: {text}")
    return errors


def _not_layout(config: Config, later: Config) -> list[str]:
    return [
        f"then=: {change} is another run, not another layout of it. Try: {', '.join(LAYOUT)}"
        for change in difference(config.values, later.values)
        if not change.startswith(tuple(f"{key}{end}" for key in LAYOUT for end in (".", ":")))
    ]


def _default_out(config: Config) -> str:
    return str(_free(Path(config.values["runs_dir"]) / "verify-resume"))


def _free(out: Path) -> Path:
    return next(path for i in range(1, 1000) if not (path := out.with_name(f"{out.name}{f'-{i}' * (i > 1)}")).exists())
