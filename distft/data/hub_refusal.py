"""What the hub's many errors mean to a user: one line with what to do, and whose turn it is.

Refused: the config, a token or a permission has to change first. Unavailable: the same command may work later.
"""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass

from distft.config.errors import Unavailable
from distft.runtime.environment import redact

_CLIENTS = ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2")
_AGAIN = "Try: run the same command again, it goes on with the files that are whole"


class Refused(RuntimeError):
    """The hub, or its absence, says no until the user changes something."""


@dataclass(frozen=True)
class Wanted:
    """Something of the hub, as the config names it."""

    hub_id: str
    revision: str | None
    kind: str = "model"

    @property
    def address(self) -> str:
        return f"{endpoint()}/{'datasets/' if self.kind == 'dataset' else ''}{self.hub_id}"

    def __str__(self) -> str:
        return f"{self.hub_id} (revision {self.revision or 'main'})"


def endpoint() -> str:
    return redact(os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def explain(error: Exception, wanted: Wanted) -> Exception:
    """Returns the exception to raise in the place of the hub client's; its text is one line without secrets."""
    cause = first_cause(error)
    status = getattr(getattr(cause, "response", None), "status_code", None)
    reason, mine = _by_status(cause, status, wanted) if status else _by_kind(cause)
    text = redact(f"{wanted} is no folder here and cannot be fetched: {reason}")
    return Refused(text) if mine else Unavailable(text)


def first_cause(error: BaseException) -> BaseException:
    """Returns the error under all that were raised because of it and that say less: the one with an answer, or last."""
    chain = list(_chain(error))
    answered = [each for each in chain if getattr(each, "response", None) is not None]
    return answered[0] if answered else chain[-1]


def is_of_hub(error: BaseException) -> bool:
    """Tells whether an error comes from the hub, its client or the way there."""
    return any(
        type(each).__module__.partition(".")[0] in _CLIENTS or getattr(each, "response", None) is not None
        for each in _chain(error)
    )


def seconds_to_wait(error: BaseException) -> float | None:
    """Returns how long the server asks to wait, None where it does not say."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    from huggingface_hub.utils import parse_ratelimit_headers

    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    told = str(headers.get("Retry-After", "")).strip()
    return float(told) if told.isdigit() else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in seen:
        seen.append(following)
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)
        yield seen[-1]


def _by_status(cause: BaseException, status: int, wanted: Wanted) -> tuple[str, bool]:
    """Returns the reason of an answer, and whether it is the user's turn."""
    code = cause.response.headers.get("X-Error-Code", "")  # pyright: ignore[reportAttributeAccessIssue]  # it has one
    login = "`hf auth login` or HF_TOKEN, then the same command"
    if code == "GatedRepo":
        token = "" if has_token() else f", and a token of that account: {login}"
        return (
            f"it is gated ({status}). Try: ask for access at {wanted.address}, then run the same command{token}",
            True,
        )
    if status in (401, 403):
        what = "refuses the token" if has_token() else "wants a token, or has nothing of that name"
        return f"{endpoint()} {what} ({status}). Try: {login}; its page: {wanted.address}", True
    if code == "RevisionNotFound":
        return f"it has no such revision ({status}). Try: one of {wanted.address}/commits/main", True
    if status in (404, 410):
        name = wanted.hub_id.rpartition("/")[2]
        search = f"{endpoint()}/{wanted.kind}s?search={name}"
        what = f"{endpoint()} has no such {wanted.kind} ({status})"
        return f"{what}. Try: the spelling, by {search}; a private one needs {login}", True
    if status == 429:
        seconds = seconds_to_wait(cause)
        when = "" if seconds is None else f", retry in {seconds:.0f} s"
        hint = "" if has_token() else f"; with a token the limit is higher: {login}"
        return f"rate limited{when} ({status}). {_AGAIN}{hint}", False
    return f"{endpoint()} has a problem of its own ({status}). {_AGAIN}", status < 500


def _by_kind(cause: BaseException) -> tuple[str, bool]:
    """Returns the reason of an error without an answer, and whether it is the user's turn."""
    name, text = type(cause).__name__, (str(cause).strip() or type(cause).__name__).splitlines()[0]
    if name in ("OfflineModeIsEnabled", "LocalEntryNotFoundError"):
        where = "Give the path of a local folder, or run `distft prepare` where the hub can be reached."
        return f"the hub is not to be asked (HF_HUB_OFFLINE=1) and it is not here. {where}", True
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        return f"{cause.strerror}: {cause.filename}. Try: another cache_dir=, or room there (df -h)", True
    if "Timeout" in name:
        return f"{endpoint()} does not answer. Try: HF_ENDPOINT, HTTPS_PROXY and the network; {_AGAIN[9:]}", False
    if name in ("ConnectError", "ConnectionRefusedError", "gaierror", "ProxyError"):
        return f"{endpoint()} cannot be reached: {text}. Try: HF_ENDPOINT, HTTPS_PROXY and the network", False
    if name in ("RemoteProtocolError", "ReadError", "IncompleteRead") or "Consistency check failed" in text:
        return f"the download broke off. {_AGAIN}", False
    return f"{text} Give the path of a local folder, or run `distft prepare` where the hub can be reached.", True


def has_token() -> bool:
    """Tells whether the hub's client sends a token."""
    from huggingface_hub import get_token

    return get_token() is not None
