"""Object stores, through fsspec: s3://, gs://, az:// and others; a store's library is missing until it is installed.

`distft prepare` asks the store for the version of each object (its ETag or time) and pins it, so that a content key
needs no network. Each `prepare` asks again; an object that has changed makes another key.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from distft.config.errors import Unavailable
from distft.data.files import Remote
from distft.data.hub import NotFetched
from distft.paths import absolute
from distft.run import read_json, write_json

PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}


class MissingStore(RuntimeError):
    """The library of an object store is not installed, or nothing knows its scheme."""


def is_url(value: str) -> bool:
    return "://" in value


def open_object(url: str) -> BinaryIO:
    """Opens an object for reading; raises MissingStore or Unavailable."""
    system, path = _system(url)
    return cast(BinaryIO, system.open(path, "rb"))


def objects(url: str, cache_dir: str | Path, ask: bool = False) -> list[Remote]:
    """Returns the objects that a URL names: itself, those below it, or those that match its `*`; sorted by name.

    ask: ask the store and pin its answer; else the pin is read, and NotFetched raised where there is none.
    """
    pin = absolute(cache_dir) / "hub" / "pins" / f"store--{hashlib.sha256(url.encode()).hexdigest()[:24]}.json"
    if not ask:
        if not pin.is_file():
            raise NotFetched(f"{url} has not been looked up")
        return [Remote(each, version) for each, version in read_json(pin)["objects"]]
    system, path = _system(url)
    try:
        found = sorted(system.glob(path) if "*" in path else system.find(path))
        named = [(system.unstrip_protocol(each), _version(system.info(each))) for each in found]
    except (FileNotFoundError, PermissionError):
        named = []
    except Exception as error:  # each store raises its own
        raise Unavailable(f"{url}: the store does not answer: {str(error).splitlines()[0]}") from error
    if not named:
        raise ValueError(f"{url}: the store has no such object, or refuses access to it")
    write_json(pin, {"url": url, "objects": named})
    return [Remote(each, version) for each, version in named]


def _version(info: Mapping[str, object]) -> str:
    """Returns what changes with an object's bytes: its checksum or generation, or where there is none its time."""
    names = ("ETag", "etag", "md5Hash", "content_md5", "generation", "LastModified", "mtime", "created")
    marks = [f"{name}={info[name]}" for name in names if info.get(name)][:1]
    return hashlib.sha256("|".join([str(info.get("size")), *marks]).encode()).hexdigest()


def _system(url: str) -> tuple[Any, str]:
    """Returns the file system of a URL and the path in it."""
    import fsspec

    scheme = url.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        package = PACKAGES.get(scheme)
        hint = f"Try: pip install {package}" if package else f"Allowed: {', '.join(PACKAGES)}, file, http"
        raise MissingStore(
            f"{url}: nothing can read {scheme}:// here ({str(error).splitlines()[0]}). {hint}"
        ) from error
