"""What every command shares: its arguments, --help, and a wrong config as plain lines with exit code 2."""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import dropwhile, islice, takewhile
from pathlib import Path
from typing import NoReturn

import yaml

from distft.config.errors import ConfigError, Unavailable, did_you_mean, nearest
from distft.config.freeze import read_config
from distft.config.help import help_text, part_text
from distft.config.targets import check_trusted
from distft.machines import wrong_numbers
from distft.paths import absolute
from distft.run import EXIT_WRONG_CONFIG, RunFolder, json_text

JSON = "--json"  # of commands that print their result as JSON, too
_HEAD = "in the configuration"


def command(
    main: Callable[[list[str]], int], argv: Sequence[str] | None = None, *, help: str | None = None
) -> NoReturn:
    """Exits with what `main(argv)` returns; a ConfigError becomes its lines on stderr and exit code 2, no traceback.

    So does a variable of the environment that holds no number where a library here reads one. With --json among the
    arguments the lines are in `{"errors": []}` on stdout too. What is Unavailable becomes a line and exit code 1:
    nothing in the config is wrong.

    argv: None for the command line. help: what --help prints, None for `help_text` of main's module; next to words of
    groups (optimizer=sgd --help) their keys are printed instead.
    """
    open_closed_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if {"--help", "-h"} & set(arguments):
            print(part_text(arguments) or help or help_text(_name(main)), flush=True)
            sys.exit(0)
        if wrong := [*wrong_numbers(), *_wrong_place(), *_spaced(arguments)]:
            raise ConfigError(wrong)
        code = main(arguments)
        sys.stdout.flush()
        sys.exit(code)
    except ConfigError as error:
        if JSON in arguments:
            print(json_text({"errors": error.messages}, indent=2), flush=True)
        print(errors_text(error.messages), file=sys.stderr)
        sys.exit(EXIT_WRONG_CONFIG)
    except Unavailable as error:
        print(f"distft: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # whoever read it has seen enough: `| head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def errors_text(messages: Sequence[str]) -> str:
    """Returns the lines of a wrong config, as commands print them."""
    count = len(messages)
    return "\n".join([f"distft: {count} error{'s' if count > 1 else ''} {_HEAD}", *(f"  {each}" for each in messages)])


def is_head(line: str) -> bool:
    """Returns whether a line is the first of `errors_text`."""
    return line.startswith("distft: ") and line.endswith(_HEAD)


def errors_of(lines: Iterable[str]) -> list[str]:
    """Returns the messages in what a command printed that ended with code 2: the inverse of `errors_text`."""
    messages = list[str]()
    after_head = islice(dropwhile(lambda line: not is_head(line), lines), 1, None)
    for line in takewhile(lambda line: line.startswith("  "), after_head):
        if line.startswith("   ") and messages:  # a further line of the same message
            messages[-1] += f"\n{line}"
        else:
            messages.append(line[2:])
    return messages


def open_closed_streams() -> None:
    """Gives a process that was started without stdin, stdout or stderr (`>&-`) the null device in their place.

    Else the next file that it opens takes their number, and what is printed would land in it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            file = os.open(os.devnull, os.O_RDWR)
            if file != number:
                os.dup2(file, number)
                os.close(file)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode))


def _wrong_place() -> list[str]:
    try:
        Path.cwd()
    except FileNotFoundError:
        return ["the folder that this command was started in was deleted. Try: cd to another"]
    return []


def _spaced(arguments: Sequence[str]) -> list[str]:
    """Returns the errors of `key = value`, `key= value` and `key =value`, which a shell makes several arguments of."""
    errors, last = [], len(arguments) - 1
    for i, word in enumerate(arguments):
        before, after = arguments[i - 1] if i else "", arguments[i + 1] if i < last else ""
        if word == "=":
            key, value = before, after
        elif word.startswith("=") and before and "=" not in before:
            key, value = before, word[1:]
        elif word.endswith("=") and word.count("=") == 1 and after and "=" not in after and not after.startswith("-"):
            key, value = word[:-1], after
        else:
            continue
        errors.append(f"{key} = {value}: a setting has no spaces around its =. Try: {key}={value}")
    return errors


def _name(main: Callable[[list[str]], int]) -> str:
    """Returns the command's name; a module run with -m is called __main__, its spec is not."""
    module = sys.modules[main.__module__]
    name = module.__spec__.name if module.__spec__ else module.__name__
    return name.removeprefix("distft.").removesuffix(".__main__")


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
            hint = did_you_mean(nearest(key, known)) or f" Allowed: {', '.join(known)}"
            errors.append(f"{key}={value}: there is no such key.{hint}")
        elif key in given:
            errors.append(f"{key}={value}: given twice")
        else:
            given[key] = value
    missing = [key for key in required if key not in given]
    errors += [
        f"{key} is missing: {known[key]}. Try: {key}=..." for key in missing if not any(key in e for e in errors)
    ]
    if errors:
        raise ConfigError(errors)
    return given


def usage(command: str, known: Mapping[str, str], claim: str) -> str:
    """Returns what --help prints of a command with these keys."""
    width = max(9, *(len(key) + 1 for key in known if len(key) < 20))
    keys = "\n".join(f"  {key + '=':<{width}} {text}" for key, text in known.items())
    return f"usage: python -m distft.{command} {' '.join(f'{key}=...' for key in known)}\n\n{claim}\n\n{keys}"


def check_config(run: RunFolder) -> None:
    """Raises ConfigError unless the frozen config is plain YAML, names trusted code and fits the model: it may be
    anybody's."""
    try:
        config = run.read_config()
        check_trusted(config if isinstance(config, dict) else {})
        read_config(run)
    except yaml.YAMLError as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError([f"{run.config}: is not the plain YAML of a run: {first}. Try: another run"]) from error
    except ValueError as error:
        raise ConfigError([f"{run.config}: {error}. Try: another run"]) from error


def find_run(value: str) -> RunFolder:
    """Returns the run folder at `value`; ConfigError with the nearest one next to it when there is none."""
    run = RunFolder(absolute(value))
    if run.config.is_file() and run.plan.is_file():
        check_config(run)
        return run
    raise ConfigError([f"run={value}: holds no run (config.yaml and plan.json).{another(run.path, run.config.name)}"])


def another(folder: Path, file: str) -> str:
    """Returns the end of an error about a folder without `file`: one with it inside, next to it or in ./runs."""
    if inside := sorted(folder.glob(f"*/{file}")):
        return f" Try: {inside[0].parent}, or another one in it"
    neighbours = [path.parent for path in folder.parent.glob(f"*/{file}")] if folder.parent.is_dir() else []
    in_runs = [path.parent for path in absolute("runs").glob(f"*/{file}")]
    others = {path.name: path for path in [*in_runs, *neighbours]}
    near = nearest(folder.name, others)
    return did_you_mean(str(others[near])) if near else " Try: distft runs, which lists those of ./runs"
