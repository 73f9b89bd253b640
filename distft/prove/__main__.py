"""`distft prove`: runs checks of distft on the devices of this machine; writes proof.jsonl and an HTML page."""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from distft.config import ConfigError, command
from distft.config.command import keywords, usage
from distft.config.errors import nearest
from distft.paths import absolute, unused
from distft.prove.place import Machine, Place, signals_interrupt
from distft.prove.proof import Line, Proof, failed, not_run, write_page
from distft.prove.support import GROUPS, WORDS, Group
from distft.run import write_json
from distft.trackers.terminal import screen

KEYS = {
    "out": "folder for proof.jsonl, proof.html, machine.json and work/ with runs and logs; new or empty",
    "minutes": "time limit; checks that do not fit are listed as not_run; default: 8",
    "checks": f"a list of {', '.join(WORDS)}; default: all",
}
CLAIM = (
    "Trains, kills, measures and compares on the devices of this machine, without a network. Each result is a line of\n"
    "proof.jsonl {check, status=pass|fail|skipped|not_run, value, unit, expected, seconds, detail} and a row of\n"
    "proof.html. On a machine without accelerators it runs with small shapes. Exit code 1 when a check fails."
)
FILES = ("proof.jsonl", "proof.html", "machine.json", "work")
_MOST_MINUTES = 24 * 60
_SECONDS_FOR_MACHINE = 90.0
_SECONDS_FOR_PAGE = 3.0  # reserved


def main(arguments: list[str]) -> int:
    """Returns 0 when no check fails, 1 when one does, 130 when interrupted; always writes the page."""
    began = time.monotonic()
    refuse_unknown(arguments)
    out, minutes, words = read(keywords(arguments, KEYS, required=("out",)))
    console = screen(sys.stdout)
    out.mkdir(parents=True, exist_ok=True)
    place = Place(out, Machine("cpu", "unknown", 0, 1), began + 60 * minutes - _SECONDS_FOR_PAGE)
    with signals_interrupt():
        try:
            place.machine = examine_machine(place)
        except (RuntimeError, KeyboardInterrupt) as error:
            place.end_children()
            print(f"distft prove: cannot examine this machine: {error}", file=sys.stderr)
            return 130 if isinstance(error, KeyboardInterrupt) else 1
        write_json(out / "machine.json", place.machine.facts)
        proof = Proof(out / "proof.jsonl", {"device": place.machine.device, "shapes": place.machine.shapes})
        proof.file.touch()
        is_interrupted = False
        try:
            for group in GROUPS:
                chosen = [word for word in group.words if word in words]
                if chosen:
                    prove(group, chosen, place, proof, console)
        except KeyboardInterrupt:
            is_interrupted = True
        finally:
            place.end_children()
    add_missing(proof, place, words, "interrupted")
    write_page(out / "proof.html", place.machine.facts, proof.lines, time.monotonic() - began)
    console.print(summary(proof, out))
    return 130 if is_interrupted else int(proof.has_failed)


def refuse_unknown(arguments: Sequence[str]) -> None:
    """Raises ConfigError for unknown keys."""
    keys = [argument.partition("=")[0] for argument in arguments]
    errors = [f"{key}: there is no such key.{_meant(key, KEYS)}" for key in keys if key not in KEYS]
    if errors:
        raise ConfigError(errors)


def read(given: dict[str, str]) -> tuple[Path, float, list[str]]:
    """Returns folder, minutes and words of the checks; ConfigError with all errors."""
    errors = []
    out, minutes, words = absolute(given["out"]), _parsed(given.get("minutes", "8")), list(WORDS)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        errors.append(f"out={given['out']}: is not an empty folder. Try: out={unused(out)}")
    if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not 0 < minutes <= _MOST_MINUTES:
        errors.append(
            f"minutes={given['minutes']}: is not a number above 0 and at most {_MOST_MINUTES}. Try: minutes=8"
        )
    if "checks" in given:
        asked = _parsed(given["checks"])
        words = [str(each) for each in (asked if isinstance(asked, list) else [asked])]
        unknown = [word for word in words if word not in WORDS]
        errors += [f"checks={word}: there is no such check.{_meant(word, WORDS)}" for word in unknown]
    if errors:
        raise ConfigError(errors)
    return out, float(minutes), words


def _meant(word: str, known: Iterable[str]) -> str:
    near = nearest(word, known)
    return f" Did you mean {near}?" if near else f" Allowed: {', '.join(known)}"


def _parsed(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def examine_machine(place: Place) -> Machine:
    """Returns the facts of this machine; RuntimeError when torch cannot be imported."""
    child = place.start("machine", "distft.prove.machine")
    code = child.wait(_SECONDS_FOR_MACHINE)  # even with little time: no line can be written without it
    try:
        facts = json.loads(child.log.read_text().splitlines()[-1])
    except (ValueError, IndexError):
        raise RuntimeError(f"exit code {code}: {child.last_words(1)}") from None
    return Machine(facts["device"], facts["name"], facts["devices"], facts["cores"], facts)


def prove(group: Group, words: Sequence[str], place: Place, proof: Proof, console: Console) -> None:
    """Runs the checks of a group; afterwards each of its lines is in the proof, also after a failure."""
    names = group.lines(place, words)
    if place.seconds_left < group.least_seconds:
        left = f"{max(0.0, place.seconds_left):.0f} s were left, {group.least_seconds:.0f} are needed"
        for name in names:
            show(add(proof, not_run(name, left)), console)
        return
    with console.status(f"{', '.join(words)} ..."):
        reason = ""
        try:
            for line in timed(group.run(place, words)):
                show(add(proof, line), console)
        except Exception as error:  # the other checks still run
            reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        finally:
            place.end_children()
    known = {line.check for line in proof.lines}
    for name in names:
        if name not in known:
            line = failed(name, reason or "the check gave no result")
            show(add(proof, line if place.seconds_left > 0 or reason else not_run(name, "no time was left")), console)


def timed(lines: Iterator[Line]) -> Iterator[Line]:
    """Yields the lines with their seconds, measured between lines where they have none."""
    began = time.monotonic()
    for line in lines:
        now = time.monotonic()
        yield line if line.seconds or line.status in ("skipped", "not_run") else replace(line, seconds=now - began)
        began = now


def add(proof: Proof, line: Line) -> Line:
    proof.add(line)
    return line


def add_missing(proof: Proof, place: Place, words: Sequence[str], reason: str) -> None:
    """Adds a line for each requested check without one."""
    known = {line.check for line in proof.lines}
    for group in GROUPS:
        chosen = [word for word in group.words if word in words]
        for name in group.lines(place, chosen) if chosen else []:
            if name not in known:
                proof.add(not_run(name, reason))


def show(line: Line, console: Console) -> None:
    value = "" if line.value is None else f" {line.value:.4g}" if isinstance(line.value, float) else f" {line.value}"
    expected = f" (expected {line.expected})" if line.expected else ""
    tail = f": {line.text}" if line.status != "pass" else ""
    console.print(f"{line.status:8}{line.check}{value} {line.unit}{expected}{tail}".rstrip())


def summary(proof: Proof, out: Path) -> str:
    counts = ", ".join(f"{proof.count(s)} {s.replace('_', ' ')}" for s in ("pass", "fail", "skipped", "not_run"))
    return f"{counts}\n  {out / 'proof.html'}\n  {out / 'proof.jsonl'}"


if __name__ == "__main__":
    command(main, help=usage("prove", KEYS, CLAIM))
