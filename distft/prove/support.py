"""Renders docs/support.md, the list of tested devices, from docs/proofs/: `python -m distft.prove.support`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distft.config import command
from distft.config.command import keywords, usage
from distft.prove import commands, series, throughput, training, versions
from distft.prove.place import Machine, MachineFacts, Place
from distft.prove.proof import STATUSES, TITLES, Line, number, read_lines, short
from distft.run import read_json


@dataclass(frozen=True)
class Group:
    """Checks that run together. `words`: their names in `checks=`."""

    words: tuple[str, ...]
    least_seconds: float  # with less time left it is not started
    lines: Callable[[Place, Sequence[str]], list[str]]  # place, chosen words -> names of the lines
    run: Callable[[Place, Sequence[str]], Iterator[Line]]


GROUPS = (
    Group(("versions",), 0.0, versions.lines_of, versions.run),
    Group(training.WORDS, training.LEAST_SECONDS, training.lines_of, training.run),
    Group(series.WORDS, series.LEAST_SECONDS, series.lines_of, series.run),
    Group(("micro",), commands.MICRO_SECONDS, commands.micro_lines, commands.micro),
    Group(throughput.WORDS, 0.0, throughput.lines_of, throughput.run),
    Group(("collectives",), commands.COLLECTIVES_SECONDS, commands.collective_lines, commands.collectives),
    Group(("doctor",), commands.DOCTOR_SECONDS, commands.doctor_lines, commands.doctor),
)
WORDS = tuple(word for group in GROUPS for word in group.words)


KEYS = {"proofs": "folder of proofs; default: docs/proofs", "out": "file to write; default: docs/support.md"}
CLAIM = "Renders the support page of the docs from the proofs in docs/proofs."
NEVER = "not run on a device yet"
_CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Kept:
    """A proof in the docs: name of its folder, facts of the machine, lines by name."""

    name: str
    facts: MachineFacts
    lines: Mapping[str, Line]

    @property
    def on_accelerator(self) -> bool:
        return self.facts["device"] != "cpu"


def main(arguments: list[str]) -> int:
    given = keywords(arguments, KEYS, required=())
    proofs = Path(given.get("proofs", _CHECKOUT / "docs" / "proofs"))
    out = Path(given.get("out", _CHECKOUT / "docs" / "support.md"))
    out.write_text(render(kept(proofs)))
    print(out)
    return 0


def kept(folder: Path) -> list[Kept]:
    """Returns the proofs of a folder, those on accelerators first."""
    found = []
    for file in sorted(folder.glob("*/proof.jsonl")):
        lines = {line.check: line for line in read_lines(file)}
        found.append(Kept(file.parent.name, read_json(file.parent / "machine.json"), lines))
    return sorted(found, key=lambda proof: (not proof.on_accelerator, proof.name))


def render(proofs: Sequence[Kept]) -> str:
    """Returns the page: the machines, then every check on each machine."""
    return "\n".join([*_head(proofs), *_checks(proofs)]) + "\n"


def _head(proofs: Sequence[Kept]) -> Iterator[str]:
    yield "# What runs on what"
    yield ""
    yield "Rendered from the proofs in `docs/proofs` by `make support`; not written by hand."
    yield "A device is supported if a `distft prove` on such a device passed, as listed below."
    yield "To test your own machine: `distft prove out=proof minutes=8`."
    yield ""
    yield (
        "| proof | device | memory, GiB | torch | transformers | deepspeed | date | commit | "
        + " | ".join(status.replace("_", " ") for status in STATUSES)
        + " |"
    )
    yield "|" + "---|" * (8 + len(STATUSES))
    if not any(proof.on_accelerator for proof in proofs):
        yield f"| none | any accelerator: {NEVER} |" + " |" * (6 + len(STATUSES))
    for proof in proofs:
        facts, lines = proof.facts, list(proof.lines.values())
        counts = [sum(line.status == status for line in lines) for status in STATUSES]
        device = f"{facts['name']}, {facts['cores']} cores"
        if facts["devices"]:
            device = f"{facts['devices']} x {facts['name']}"
        versions = [facts["packages"].get(name, "") for name in ("torch", "transformers", "deepspeed")]
        code = facts.get("code") or {}
        commit = code.get("commit", "unknown")[:12] + (" with changes" if code.get("changed") else "")
        memory = facts.get("device_memory_gib", facts["memory_gib"])
        cells = [proof.name, device, memory, *versions, facts["time"][:10], commit, *counts]
        yield "| " + " | ".join(map(str, cells)) + " |"
    yield ""


def _checks(proofs: Sequence[Kept]) -> Iterator[str]:
    on_device = [proof for proof in proofs if proof.on_accelerator]
    columns = [*(on_device or [None]), *(proof for proof in proofs if not proof.on_accelerator)]
    names = list(dict.fromkeys([*_known(), *(name for proof in proofs for name in proof.lines)]))
    for part, title in TITLES.items():
        mine = [name for name in names if name.partition(".")[0] == part]
        if not mine:
            continue
        yield f"## {title}"
        yield ""
        yield "| check | " + " | ".join(proof.name if proof else "accelerator" for proof in columns) + " |"
        yield "|" + "---|" * (1 + len(columns))
        for name in mine:
            yield f"| {short(name)} | " + " | ".join(_cell(proof, name) for proof in columns) + " |"
        yield ""


def _known() -> list[str]:
    """Returns the checks of a machine with several CUDA devices."""
    place = Place(Path(), Machine("cuda", "", 2, 16), 0.0)
    return [name for group in GROUPS for name in group.lines(place, group.words)]


def _cell(proof: Kept | None, name: str) -> str:
    """Returns the result of a check, without the values of small shapes, which measure nothing."""
    if proof is None:
        return NEVER
    line = proof.lines.get(name)
    if line is None:
        return "" if not proof.on_accelerator else NEVER
    status = line.status.replace("_", " ")
    if line.status in ("skipped", "not_run"):
        return f"{status}: {line.text}".replace("|", "/")
    wanted = line.expected or proof.on_accelerator or name.startswith("versions.")
    value = f" {number(line.value)} {line.unit}".rstrip() if line.value is not None and wanted else ""
    return f"{status}{value}".replace("|", "/")


if __name__ == "__main__":
    command(main, help=usage("prove.support", KEYS, CLAIM))
