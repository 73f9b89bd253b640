"""All checks in the order they run: cheap ones that tell much first, so that little time still proves something."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from distft.prove import commands, resume, throughput, training, versions
from distft.prove.place import Place
from distft.prove.proof import Line


@dataclass(frozen=True)
class Group:
    """Checks that are made together. `words`: what `checks=` calls them."""

    words: tuple[str, ...]
    least_seconds: float  # not begun with less time left
    lines: Callable[[Place, Sequence[str]], list[str]]  # place, chosen words -> names of the lines
    run: Callable[[Place, Sequence[str]], Iterator[Line]]


GROUPS = (
    Group(("versions",), 0.0, versions.lines_of, versions.run),
    Group(training.WORDS, training.LEAST_SECONDS, training.lines_of, training.run),
    Group(resume.WORDS, resume.LEAST_SECONDS, resume.lines_of, resume.run),
    Group(("micro",), commands.MICRO_SECONDS, commands.micro_lines, commands.micro),
    Group(throughput.WORDS, 0.0, throughput.lines_of, throughput.run),
    Group(("collectives",), commands.COLLECTIVES_SECONDS, commands.collective_lines, commands.collectives),
    Group(("doctor",), commands.DOCTOR_SECONDS, commands.doctor_lines, commands.doctor),
)
WORDS = tuple(word for group in GROUPS for word in group.words)
