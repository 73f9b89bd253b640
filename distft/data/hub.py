"""Hugging Face hub: fetches models and datasets at a pinned commit, with timeouts, retries and one-line errors.

Refused: the user must change the config, a token or a permission. Unavailable: the same command may work later.

huggingface_hub resumes interrupted downloads and retries some requests; this module retries the other transient ones.
Trap: the library sleeps as long as the server's Retry-After says, even hours, and its lookups have no timeout.

Reading a pin needs neither the network nor huggingface_hub, so that a login node can compute content keys.
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
_RETRY = "Try: run the same command again; it keeps the files that are complete"


class Refused(RuntimeError):
    """The hub cannot serve the item until the user changes something."""


@dataclass(frozen=True)
class HubItem:
    """A model or dataset of the hub, as the config names it."""

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


def explain(error: Exception, item: HubItem) -> Exception:
    """Returns the exception to raise instead of the hub client's: Refused or Unavailable, one line without secrets."""
    cause = first_cause(error)
    status = getattr(getattr(cause, "response", None), "status_code", None)
    reason, needs_user = _by_status(cause, status, item) if status else _by_kind(cause)
    text = redact(f"{item} is not a local folder and cannot be fetched: {reason}")
    return Refused(text) if needs_user else Unavailable(text)


def first_cause(error: BaseException) -> BaseException:
    """Returns the most informative error of a chain: the first with an HTTP response, else the innermost."""
    chain = list(_chain(error))
    answered = [each for each in chain if getattr(each, "response", None) is not None]
    return answered[0] if answered else chain[-1]


def is_hub_error(error: BaseException) -> bool:
    """Returns whether an error comes from the hub, its client or the network transport."""
    return any(
        type(each).__module__.partition(".")[0] in _CLIENTS or getattr(each, "response", None) is not None
        for each in _chain(error)
    )


def retry_after_seconds(error: BaseException) -> float | None:
    """Returns the wait that the server requests, in seconds; None where it requests none."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    from huggingface_hub.utils import parse_ratelimit_headers

    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    retry_after = str(headers.get("Retry-After", "")).strip()
    return float(retry_after) if retry_after.isdigit() else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in seen:
        seen.append(following)
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)
        yield seen[-1]


def _by_status(cause: BaseException, status: int, item: HubItem) -> tuple[str, bool]:
    """Returns the reason for an HTTP status, and whether the user must act."""
    code = cause.response.headers.get("X-Error-Code", "")  # pyright: ignore[reportAttributeAccessIssue]  # it has a response
    login = "`hf auth login` or HF_TOKEN, then the same command"
    if code == "GatedRepo":
        token = "" if has_token() else f", and a token of that account: {login}"
        return (
            f"it is gated ({status}). Try: request access at {item.address}, then run the same command{token}",
            True,
        )
    if status in (401, 403):
        what = "refuses the token" if has_token() else "requires a token, or has nothing of that name"
        return f"{endpoint()} {what} ({status}). Try: {login}; its page: {item.address}", True
    if code == "RevisionNotFound":
        return f"it has no such revision ({status}). Try: one of {item.address}/commits/main", True
    if status in (404, 410):
        name = item.hub_id.rpartition("/")[2]
        search = f"{endpoint()}/{item.kind}s?search={name}"
        what = f"{endpoint()} has no such {item.kind} ({status})"
        return f"{what}. Try: the spelling, by {search}; a private one needs {login}", True
    if status == 429:
        seconds = retry_after_seconds(cause)
        when = "" if seconds is None else f", retry in {seconds:.0f} s"
        hint = "" if has_token() else f"; with a token the limit is higher: {login}"
        return f"rate limited{when} ({status}). {_RETRY}{hint}", False
    return f"{endpoint()} failed ({status}). {_RETRY}", status < 500


def _by_kind(cause: BaseException) -> tuple[str, bool]:
    """Returns the reason for an error without an HTTP response, and whether the user must act."""
    name, text = type(cause).__name__, (str(cause).strip() or type(cause).__name__).splitlines()[0]
    if name in ("OfflineModeIsEnabled", "LocalEntryNotFoundError"):
        where = "Give the path of a local folder, or run `distft prepare` where the hub can be reached."
        return f"HF_HUB_OFFLINE=1 forbids requests to the hub, and it is not in the cache. {where}", True
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        return f"{cause.strerror}: {cause.filename}. Try: another cache_dir=, or free space there (df -h)", True
    if "Timeout" in name:
        return f"{endpoint()} does not answer. Try: HF_ENDPOINT, HTTPS_PROXY and the network; {_RETRY[9:]}", False
    if name in ("ConnectError", "ConnectionRefusedError", "gaierror", "ProxyError"):
        return f"{endpoint()} cannot be reached: {text}. Try: HF_ENDPOINT, HTTPS_PROXY and the network", False
    if name in ("RemoteProtocolError", "ReadError", "IncompleteRead") or "Consistency check failed" in text:
        return f"the download was interrupted. {_RETRY}", False
    return f"{text} Give the path of a local folder, or run `distft prepare` where the hub can be reached.", True


def has_token() -> bool:
    """Returns whether the hub's client sends a token."""
    from huggingface_hub import get_token

    return get_token() is not None


Answer = TypeVar("Answer")
MAX_WAIT_SECONDS = 60  # limit for one request with its retries, and for a Retry-After
_WAITS = (1, 2, 4)
_RETRYABLE = (408, 429, 500, 502, 503, 504)


def call_hub(item: HubItem, question: Callable[[], Answer]) -> Answer:
    """Returns the result of `question`, a request to the hub, after retries of transient failures.

    Raises Refused where the user must act and Unavailable where a later try may succeed; other errors pass through.
    """
    from huggingface_hub.utils import disable_progress_bars, logging, set_client_factory

    logging.get_logger("huggingface_hub").setLevel("ERROR")  # it logs every failed request
    if not sys.stderr.isatty():
        disable_progress_bars()
    set_client_factory(_ClientWithDeadline().client)
    for wait in (*_WAITS, None):
        try:
            return question()
        except Exception as error:  # the client raises its own, the transport's and the system's errors
            if not (is_hub_error(error) or isinstance(error, OSError)):
                raise
            cause = first_cause(error)
            requested = retry_after_seconds(cause)
            transient = getattr(getattr(cause, "response", None), "status_code", None) in _RETRYABLE
            if wait is None or not transient or (requested or 0) > MAX_WAIT_SECONDS:
                raise explain(error, item) from None
            time.sleep(wait if requested is None else requested)
    raise AssertionError("unreachable: the last failure raises")


class WaitTooLong(Exception):
    """The server requests a longer wait than the limit; `response` is its last response."""

    def __init__(self, response: Any) -> None:
        super().__init__(f"answers {response.status_code}")
        self.response = response


@dataclass
class _Pending:
    since: float
    response: Any = None


class _ClientWithDeadline:
    """Adds a deadline to the hub's client: a request that was retried for more than MAX_WAIT_SECONDS fails."""

    def __init__(self) -> None:
        self._pending: dict[tuple[str, str], _Pending] = {}
        self._lock = threading.Lock()  # several threads fetch files

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
        if time.monotonic() - found.since > MAX_WAIT_SECONDS and found.response is not None:
            raise WaitTooLong(found.response)

    def _after(self, response: Any) -> None:
        if response.status_code not in _RETRYABLE:
            with self._lock:
                self._pending.pop(_key(response.request), None)
            return
        self._pending[_key(response.request)].response = response
        if (retry_after_seconds(WaitTooLong(response)) or 0) > MAX_WAIT_SECONDS:
            raise WaitTooLong(response)


def _key(request: Any) -> tuple[str, str]:
    return request.method, str(request.url)


__all__ = ["HubItem", "Refused", "Unavailable", "call_hub"]


HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
COMMIT = re.compile(r"[0-9a-f]{40}")
TOKENIZER_FILES = ["*.json", "*.jinja", "*.txt", "*.model"]


class NotFetched(RuntimeError):
    """An item of the hub that `distft prepare` has not fetched yet."""


def is_hub_id(path: str) -> bool:
    """Returns whether `path` is a hub id; the path of an existing file or folder never is."""
    return HUB_ID.fullmatch(path) is not None and not absolute(path).exists()


def local_folder(path: str, revision: str | None, cache_dir: str | Path, weights: bool = True) -> Path:
    """Returns the local folder of a model, or of a tokenizer (`weights=False`); raises NotFetched for a remote one."""
    if not is_hub_id(path):
        return absolute(path)
    for kind in ("model",) if weights else ("model", "tokenizer"):
        pin = _pin(kind, path, revision, cache_dir)
        if pin.is_file() and (folder := Path(read_json(pin)["folder"])).is_dir():
            return folder
    raise NotFetched(f"{path} (revision {revision or 'main'}) is not fetched into {cache_dir}")


def fetch(path: str, revision: str | None, cache_dir: str | Path, weights: bool = True) -> Path:
    """Returns the local folder of a hub id, after fetching it if needed; of weights, safetensors files only.

    Raises Refused or Unavailable, and writes no pin, on failure. If the folder of a pin was deleted, the same commit is
    fetched again.
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
        folder = call_hub(HubItem(path, commit), lambda: download(cache_dir=absolute(cache_dir) / "hub"))
    except (Refused, Unavailable):
        folder = _from_user_cache(download)
        if folder is None:
            raise
    if weights and not any(folder.glob("*.safetensors")):
        raise RuntimeError(f"model.path={path} has no safetensors file in {folder}, and distft opens no pickles")
    write_json(pin, {"id": path, "revision": revision, "commit": folder.name, "folder": str(folder)})
    return folder


def _from_user_cache(download: Callable[..., Path]) -> Path | None:
    """Returns a snapshot from the user's own Hugging Face cache; None where it is missing or incomplete."""
    try:
        folder = download(local_files_only=True)
    except Exception:  # any kind of error; the caller reports why the hub failed instead
        return None
    index = folder / "model.safetensors.index.json"
    names = set(read_json(index)["weight_map"].values()) if index.is_file() else set()
    return folder if all((folder / name).is_file() for name in names) else None


def dataset_commit(hub_id: str, revision: str | None, cache_dir: str | Path, ask: bool = False) -> str:
    """Returns the commit of a dataset's revision; raises NotFetched where it is unknown and `ask` is false."""
    if revision and COMMIT.fullmatch(revision):
        return revision
    pin = _pin("dataset", hub_id, revision, cache_dir)
    if pin.is_file():
        return read_json(pin)["commit"]
    if not ask:
        raise NotFetched(f"dataset {hub_id} (revision {revision or 'main'}) has not been fetched")
    from huggingface_hub import HfApi

    item = HubItem(hub_id, revision, "dataset")
    commit = call_hub(item, lambda: HfApi().dataset_info(hub_id, revision=revision).sha)
    write_json(pin, {"id": hub_id, "revision": revision, "commit": commit})
    return str(commit)


def _pin(kind: str, hub_id: str, revision: str | None, cache_dir: str | Path) -> Path:
    name = f"{kind}--{hub_id}@{revision or 'main'}".replace("/", "--")
    return absolute(cache_dir) / "hub" / "pins" / f"{name}.json"
