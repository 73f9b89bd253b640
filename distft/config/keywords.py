"""The arguments of commands that look at a finished thing rather than compose a run: `key=value`, few and flat."""

from collections.abc import Mapping, Sequence

import yaml

from distft.config.errors import ConfigError
from distft.config.nearest import did_you_mean, nearest
from distft.config.trusted import check_trusted
from distft.paths import absolute
from distft.run import RunFolder


def keywords(arguments: Sequence[str], known: Mapping[str, str], required: Sequence[str]) -> dict[str, str]:
    """Returns the given values by key; ConfigError with every unknown, repeated or missing key at once.

    known: key -> what it is, as --help shows it.
    """
    given: dict[str, str] = {}
    errors = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not value:
            errors.append(f"{argument}: write key=value, with one of {', '.join(known)}")
        elif key not in known:
            errors.append(f"{key}={value}: there is no such key.{did_you_mean(nearest(key, known))}")
        elif key in given:
            errors.append(f"{key}={value}: given twice")
        else:
            given[key] = value
    missing = [key for key in required if key not in given]
    errors += [f"{key}=: is missing, {known[key]}" for key in missing if not any(key in e for e in errors)]
    if errors:
        raise ConfigError(errors)
    return given


def usage(command: str, known: Mapping[str, str], claim: str) -> str:
    """Returns what --help prints of a command with these keys."""
    keys = "\n".join(f"  {key + '=':<10}{text}" for key, text in known.items())
    return f"usage: python -m distft.{command} {' '.join(f'{key}=...' for key in known)}\n\n{claim}\n\n{keys}"


def check_config(run: RunFolder) -> None:
    """Raises ConfigError unless the frozen config is plain YAML and names trusted code: it may be anybody's."""
    try:
        config = run.read_config()
        check_trusted(config if isinstance(config, dict) else {})
    except yaml.YAMLError as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError([f"{run.config}: is not the plain YAML of a run: {first}. Try: another run"]) from error
    except ValueError as error:
        raise ConfigError([f"{run.config}: {error}. Try: another run"]) from error


def find_run(value: str) -> RunFolder:
    """Returns the run folder at `value`; ConfigError with the nearest one beside it when there is none."""
    run = RunFolder(absolute(value))
    if run.config.is_file() and run.plan.is_file():
        check_config(run)
        return run
    parent = run.path.parent
    others = [path.parent.name for path in parent.glob("*/config.yaml")] if parent.is_dir() else []
    near = nearest(run.path.name, others)
    hint = did_you_mean(str(parent / near) if near else None)
    raise ConfigError([f"run={value}: holds no run (config.yaml and plan.json).{hint}"])
