"""Models and data sets from the Hugging Face hub: fetched at a pinned commit, with time limits and clear refusals.

Refused: the config, a token or a permission has to change first. Unavailable: the same command may work later.

huggingface_hub resumes downloads that break off and repeats some requests that fail for a while; the rest of them are
repeated here. Trap: it sleeps for as long as the server says, hours if need be, and its lookups wait without end.

Reading what is pinned needs neither network nor huggingface_hub, so that a login node can compute keys.
"""

import errno
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from distft.compat.hub import default_client
from distft.config.errors import Unavailable
from distft.paths import absolute
from distft.run import read_json, write_json
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


Answer = TypeVar("Answer")
PATIENCE_SECONDS = 60  # for one request with all its repetitions, and for a wait that the server asks for
_WAITS = (1, 2, 4)
_PASSING = (408, 429, 500, 502, 503, 504)


def ask_hub(wanted: Wanted, question: Callable[[], Answer]) -> Answer:
    """Returns the hub's answer; Refused where the user can do something, Unavailable where the world has to change.

    What has nothing to do with the hub is raised as it is.
    """
    from huggingface_hub.utils import disable_progress_bars, logging, set_client_factory

    logging.get_logger("huggingface_hub").setLevel("ERROR")  # its own account of each failed request
    if not sys.stderr.isatty():
        disable_progress_bars()
    set_client_factory(_Patient().client)
    for wait in (*_WAITS, None):
        try:
            return question()
        except Exception as error:  # the hub's client raises its own, its transport's and the system's errors
            if not (is_of_hub(error) or isinstance(error, OSError)):
                raise
            cause = first_cause(error)
            asked = seconds_to_wait(cause)
            passing = getattr(getattr(cause, "response", None), "status_code", None) in _PASSING
            if wait is None or not passing or (asked or 0) > PATIENCE_SECONDS:
                raise explain(error, wanted) from None
            time.sleep(wait if asked is None else asked)
    raise AssertionError("the last failure raises")


class TooLong(Exception):
    """The server asks for more patience than there is; `response` is what it answered last."""

    def __init__(self, response: Any) -> None:
        super().__init__(f"answers {response.status_code}")
        self.response = response


@dataclass
class _Pending:
    since: float
    response: Any = None


class _Patient:
    """The hub's own client, which gives up a request that has been repeated for longer than PATIENCE_SECONDS."""

    def __init__(self) -> None:
        self._pending: dict[tuple[str, str], _Pending] = {}
        self._lock = threading.Lock()  # files are fetched by several threads

    def client(self) -> Any:
        client = default_client()
        hooks = client.event_hooks
        client.event_hooks = {
            "request": [*hooks.get("request", ()), self._before],
            "response": [*hooks.get("response", ()), self._after],
        }
        return client

    def _before(self, request: Any) -> None:
        waits = request.extensions.get("timeout") or {}
        if all(seconds is None for seconds in waits.values()):
            seconds = float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or 10)
            request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), seconds)
        with self._lock:
            found = self._pending.setdefault(_key(request), _Pending(time.monotonic()))
        if time.monotonic() - found.since > PATIENCE_SECONDS and found.response is not None:
            raise TooLong(found.response)

    def _after(self, response: Any) -> None:
        if response.status_code not in _PASSING:
            with self._lock:
                self._pending.pop(_key(response.request), None)
            return
        self._pending[_key(response.request)].response = response
        if (seconds_to_wait(TooLong(response)) or 0) > PATIENCE_SECONDS:
            raise TooLong(response)


def _key(request: Any) -> tuple[str, str]:
    return request.method, str(request.url)


__all__ = ["Refused", "Unavailable", "Wanted", "ask_hub"]


HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
COMMIT = re.compile(r"[0-9a-f]{40}")
TOKENIZER_FILES = ["*.json", "*.jinja", "*.txt", "*.model"]


class NotFetched(RuntimeError):
    """Something of the hub that `distft prepare` has not brought here yet."""


def is_hub_id(path: str) -> bool:
    """Tells a hub id from a path: what exists as a file or folder is never one."""
    return HUB_ID.fullmatch(path) is not None and not absolute(path).exists()


def local_folder(path: str, revision: str | None, cache_dir: str | Path, weights: bool = True) -> Path:
    """Returns the folder of a model, or of a tokenizer (`weights=False`); NotFetched if it is no folder here."""
    if not is_hub_id(path):
        return absolute(path)
    for kind in ("model",) if weights else ("model", "tokenizer"):
        pin = _pin(kind, path, revision, cache_dir)
        if pin.is_file() and (folder := Path(read_json(pin)["folder"])).is_dir():
            return folder
    raise NotFetched(f"{path} (revision {revision or 'main'}) is not fetched into {cache_dir}")


def fetch(path: str, revision: str | None, cache_dir: str | Path, weights: bool = True) -> Path:
    """Returns the local folder of a hub id, fetched whole where it is not here yet; safetensors only.

    Refused or Unavailable, and no pin, where it cannot be had. A pin whose folder was deleted gets the same commit.
    """
    try:
        return local_folder(path, revision, cache_dir, weights)
    except NotFetched:
        pass
    from huggingface_hub import snapshot_download

    patterns = TOKENIZER_FILES + (["*.safetensors"] if weights else [])
    pin = _pin("model" if weights else "tokenizer", path, revision, cache_dir)
    commit = read_json(pin)["commit"] if pin.is_file() else revision

    def download(**options: Any) -> Path:
        return Path(snapshot_download(path, revision=commit, allow_patterns=patterns, **options))

    try:
        folder = ask_hub(Wanted(path, commit), lambda: download(cache_dir=absolute(cache_dir) / "hub"))
    except (Refused, Unavailable):
        folder = _of_own_cache(download)
        if folder is None:
            raise
    if weights and not any(folder.glob("*.safetensors")):
        raise RuntimeError(f"model.path={path} has no safetensors file in {folder}, and distft opens no pickles")
    write_json(pin, {"id": path, "revision": revision, "commit": folder.name, "folder": str(folder)})
    return folder


def _of_own_cache(download: Callable[..., Path]) -> Path | None:
    """Returns what other programs have fetched for the user, None where it is not there or not whole."""
    try:
        folder = download(local_files_only=True)
    except Exception:  # as many kinds as for a download; why the hub did not answer is told instead
        return None
    index = folder / "model.safetensors.index.json"
    names = set(read_json(index)["weight_map"].values()) if index.is_file() else set()
    return folder if all((folder / name).is_file() for name in names) else None


def dataset_commit(hub_id: str, revision: str | None, cache_dir: str | Path, ask: bool = False) -> str:
    """Returns the commit that a dataset's revision stands for; NotFetched where it is unknown and not to be asked."""
    if revision and COMMIT.fullmatch(revision):
        return revision
    pin = _pin("dataset", hub_id, revision, cache_dir)
    if pin.is_file():
        return read_json(pin)["commit"]
    if not ask:
        raise NotFetched(f"dataset {hub_id} (revision {revision or 'main'}) has not been fetched")
    from huggingface_hub import HfApi

    wanted = Wanted(hub_id, revision, "dataset")
    commit = ask_hub(wanted, lambda: HfApi().dataset_info(hub_id, revision=revision).sha)
    write_json(pin, {"id": hub_id, "revision": revision, "commit": commit})
    return str(commit)


def _pin(kind: str, hub_id: str, revision: str | None, cache_dir: str | Path) -> Path:
    name = f"{kind}--{hub_id}@{revision or 'main'}".replace("/", "--")
    return absolute(cache_dir) / "hub" / "pins" / f"{name}.json"
