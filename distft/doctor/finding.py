"""What a check found, and how checks are run: one that fails is itself a finding, and the others go on."""

import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from distft.runtime.environment import redact

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of what was seen and, unless all is well, one line of what to do."""

    check: str
    state: State
    seen: str
    remedy: str = ""
    host: str | None = None  # None: the machine that the command was typed on

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"host": self.host or platform.node()}

    def on(self, host: str) -> "Finding":
        return replace(self, host=host)


class Refused(RuntimeError):
    """Something that a check needs does not answer; the message is for the user, and `remedy` says what to do."""

    def __init__(self, seen: str, remedy: str) -> None:
        super().__init__(seen)
        self.remedy = remedy


Check = Callable[[], Iterable[Finding]]


def run_check(name: str, check: Check) -> list[Finding]:
    """Returns what a check finds, free of secrets; an exception is a problem of that name, never a traceback."""
    found = []
    try:
        for each in check():  # one by one: what was found before an exception counts
            found += [each]
    except Refused as refused:
        found.append(Finding(name, "problem", str(refused), refused.remedy))
    except Exception as error:  # whatever a broken machine makes a check raise
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        seen, remedy = f"this check failed: {type(error).__name__}: {reason}", "the others went on; report this line"
        found.append(Finding(name, "problem", seen, remedy))
    return [replace(each, seen=redact(each.seen), remedy=redact(each.remedy)) for each in found]
