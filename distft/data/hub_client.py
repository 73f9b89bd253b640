"""Asks the Hugging Face hub with an end to every wait, and turns what it refuses into one line that says what to do.

huggingface_hub resumes downloads that break off and repeats some requests that fail for a while; the rest of them are
repeated here. Trap: it sleeps for as long as the server says, hours if need be, and its lookups wait without end.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from distft.compat.hub import default_client
from distft.config.errors import Unavailable
from distft.data.hub_refusal import Refused, Wanted, explain, first_cause, is_of_hub, seconds_to_wait

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
