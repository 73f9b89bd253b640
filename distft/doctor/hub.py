"""The Hugging Face hub: whether it is to be asked, whether there is a token, whether it answers.

The token itself is neither read into a finding nor sent: one HEAD without it tells whether the hub can be reached.
"""

import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from distft.doctor.finding import Finding
from distft.runtime.environment import redact

_SECONDS = 5
_TRUE = {"1", "ON", "YES", "TRUE"}  # as huggingface_hub reads them


def check_hub(variables: Mapping[str, str] = os.environ, seconds: float = _SECONDS) -> Iterator[Finding]:
    """Finds whether models and datasets of the hub can be fetched from here; offline nothing is sent."""
    token = "a token is there" if has_token(variables) else "no token"
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if variables.get(name, "").upper() in _TRUE:
            yield Finding("hub", "ok", f"offline by {name}={variables[name]}: only what is here is used; {token}")
            return
    endpoint = variables.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    offline = "or HF_HUB_OFFLINE=1 where only what is here is used"
    code, seen = _head(endpoint, seconds)
    seen = f"{redact(endpoint)} {seen}; {token}"
    if code is None:
        yield Finding("hub", "problem", seen, f"check HF_ENDPOINT, HTTPS_PROXY and the network, {offline}")
    elif code in (401, 407):
        remedy = "it wants you to log in first: HTTPS_PROXY with a name, a token in HF_TOKEN (hf auth login)"
        yield Finding("hub", "problem", seen, f"{remedy}, {offline}")
    elif code == 429 or code >= 500:
        yield Finding("hub", "problem", seen, f"wait and run this again, {offline}")
    elif code >= 400 and code != 405:
        yield Finding("hub", "problem", seen, f"HF_ENDPOINT should be the hub's address, {offline}")
    else:
        yield Finding("hub", "ok", seen)


def has_token(variables: Mapping[str, str] = os.environ) -> bool:
    """Tells whether huggingface_hub would find a token in the variables or in its file."""
    if variables.get("HF_TOKEN") or variables.get("HUGGING_FACE_HUB_TOKEN"):
        return True
    home = variables.get("HF_HOME") or Path(variables.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "huggingface"
    file = Path(variables.get("HF_TOKEN_PATH") or Path(home) / "token").expanduser()
    try:
        return file.stat().st_size > 0
    except OSError:
        return False


def _head(address: str, seconds: float) -> tuple[int | None, str]:
    """Returns the code of the answer to one HEAD, None without one, and what to say of it."""
    try:
        request = urllib.request.Request(address, method="HEAD", headers={"User-Agent": "distft-doctor"})
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            return answer.status, "answers"
    except urllib.error.HTTPError as error:
        return error.code, f"answers {error.code}"
    except TimeoutError:
        return None, f"does not answer within {seconds:g} s"
    except urllib.error.URLError as error:
        slow = isinstance(error.reason, TimeoutError)
        return None, f"does not answer within {seconds:g} s" if slow else f"cannot be reached: {error.reason}"
    except (OSError, ValueError) as error:
        return None, f"cannot be asked: {error}"
