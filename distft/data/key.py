"""Content key of prepared data: a hash of everything that determines its tokens, and of nothing else.

It covers the bytes of the data files, the tokenizer files, the chat template, the options below and STAGE_VERSION; not
source code, paths, hosts, batch sizes or package versions. Login nodes compute it, so this module imports no torch,
transformers or datasets. The hash of a big file is cached by (path, inode, size, times).
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from distft.config.data import Data, source_items
from distft.config.schema import Config
from distft.data.cleaning.options import is_cleaned, key_part, overlap_action
from distft.data.files import DataFile, Member, Remote, file_kind
from distft.data.hub import NotFetched, dataset_commit, local_folder
from distft.data.report import refused
from distft.data.sources import Source, find_sources
from distft.paths import absolute
from distft.run import read_json, write_json
from distft.tasks.preference import formats_of

OPTIONS = (
    *("format", "fields", "ignore_fields", "max_length", "seed_date", "train_on", "train_reasoning", "truncate"),
)
Parts = dict[str, object]  # what the key is made of, as JSON; it is hashed and compared
STAGE_VERSION = 2  # increment when the same rows give other tokens; tests/data/test_golden.py fails then
FRACTION_LEAKS = 1  # increment when other training rows are found to contain texts of a held-out fraction
TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model")
TEMPLATE_FILES = ("chat_template*", "additional_chat_templates/*")
CACHED_HASH_BYTES = 4 * 2**20  # hashes of larger files are cached


def data_key(config: Config) -> str:
    """Returns the content key of a config's prepared data.

    Raises NotFetched while its tokenizer or dataset is remote, ValueError for a missing source.
    """
    return hash_of_parts(key_parts(config))


def hash_of_parts(parts: Parts) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def key_parts(config: Config) -> Parts:
    """Returns the named inputs of the content key, files as their hashes; raises what `data_key` raises."""
    return {name: make() for name, make in _makers(config).items()}


def known_parts(config: Config) -> Parts:
    """Returns the inputs of the content key that are available, without those whose files are missing or remote."""
    found = {}
    for name, make in _makers(config).items():
        with suppress(NotFetched, ValueError, OSError):
            found[name] = make()
    return found


def _makers(config: Config) -> dict[str, Callable[[], Any]]:
    data = config.data

    def sources(name: Literal["train", "eval"]) -> list[Any]:
        found = find_sources(name, data, config.cache_dir)
        mixing = [item.mixing for item in source_items(getattr(data, name))]
        shares = [{"mixing": mixing}] if any(share is not None for item in mixing for share in item) else []
        return [_source_hash(source, config.cache_dir) for source in found] + shares

    makers: dict[str, Callable[[], Any]] = {name: partial(getattr, data, name) for name in OPTIONS}
    makers["prompt_template"] = lambda: data.prompt_template and template_text(data.prompt_template)
    makers["chat_template"] = lambda: chat_template(data.chat_template)
    makers["tokenizer"] = lambda: _tokenizer_hash(config)
    makers["version"] = lambda: STAGE_VERSION
    makers["train"] = lambda: sources("train")
    if has_eval_rows(data):
        makers["eval"] = lambda: sources("eval")
        makers["overlap"] = lambda: overlap_action(config) == "drop"
    else:
        makers["eval"] = lambda: [eval_fraction(data), data.split_seed]
        if eval_fraction(data) and config.clean.leakage.enabled:
            makers["fraction_leaks"] = lambda: FRACTION_LEAKS
    if config.model.task != "causal_lm":  # whose keys are those of before there were tasks
        makers["task"] = lambda: config.model.task
    if config.model.task == "preference":  # pairs, or answers with labels
        makers["of_loss"] = lambda: formats_of(config.loss.target)
    if is_cleaned(config.clean):
        makers["clean"] = lambda: key_part(config, lambda path: file_hash(absolute(path), config.cache_dir))
    return makers


def prepared_dir(config: Config) -> Path | None:
    """Returns the folder of the prepared data; None where it is missing or exceeds a threshold of the config."""
    try:
        folder = data_dir(config.cache_dir, data_key(config))
    except (NotFetched, ValueError, OSError):  # `distft prepare` fetches it, or reports the error
        return None
    if not (folder / "manifest.json").is_file() or refused(read_json(folder / "report.json"), config.data):
        return None
    return folder


def data_dir(cache_dir: str, key: str) -> Path:
    return absolute(cache_dir) / "data" / key


def has_eval_rows(data: Data) -> bool:
    """Returns whether data.eval names files or hub ids, rather than a held-out fraction of data.train."""
    return isinstance(data.eval, str | list)


def eval_fraction(data: Data) -> float:
    """Returns the fraction of data.train to hold out; 0 where data.eval is null or names rows."""
    return float(data.eval) if isinstance(data.eval, int | float) else 0.0


def tokenizer_dir(config: Config) -> Path | None:
    """Returns the tokenizer's folder, None for the byte tokenizer of tiny models; raises NotFetched if it is remote."""
    model = config.model
    if model.tokenizer:
        return local_folder(model.tokenizer, None, config.cache_dir, weights=False)
    if model.tiny:
        return None
    return local_folder(model.path, model.revision, config.cache_dir, weights=False)


def pinned(source: Source, cache_dir: str) -> Source:
    """Returns the source with its revision resolved to a commit; raises NotFetched where the commit is unknown."""
    if source.hub_id is None:
        return source
    return replace(source, revision=dataset_commit(source.hub_id, source.revision, cache_dir))


def template_text(value: str) -> str:
    """Returns a template's text: of the .jinja file that data.prompt_template names, else the value itself."""
    if not value.endswith(".jinja"):
        return value
    path = absolute(value)
    if not path.is_file():
        raise ValueError(f"data.prompt_template={value} is not a file")
    return path.read_text()


def chat_template(value: str) -> str:
    """Returns `auto`, `none` or the text of the .jinja file that data.chat_template names."""
    if value in ("auto", "none"):
        return value
    path = absolute(value)
    if path.suffix != ".jinja" or not path.is_file():
        raise ValueError(f"data.chat_template={value} is neither auto nor none nor a .jinja file")
    return path.read_text()


def _tokenizer_hash(config: Config) -> str:
    folder = tokenizer_dir(config)
    if folder is None:
        return "bytes"
    files = {path for pattern in TOKENIZER_FILES + TEMPLATE_FILES for path in folder.glob(pattern)}
    if not files:
        missing = "has no tokenizer" if folder.is_dir() else "is neither a folder nor a hub id"
        setting = f"tokenizer={config.model.tokenizer}" if config.model.tokenizer else f"path={config.model.path}"
        raise ValueError(f"model.{setting} {missing} ({folder})")
    return _joined((str(path.relative_to(folder)), file_hash(path, config.cache_dir)) for path in sorted(files))


def _source_hash(source: Source, cache_dir: str) -> str:
    if source.hub_id:
        commit = pinned(source, cache_dir).revision
        return _joined([("hub", source.hub_id), ("commit", commit), ("split", source.split), ("subset", source.subset)])
    files = source.files or tuple(sorted(path for path in source.saved.rglob("*") if path.is_file()))  # type: ignore[union-attr]  # one of the two is set
    split = [("split", source.split)] if source.saved else []
    return _joined([*split, *((file_kind(path), file_hash(path, cache_dir)) for path in files)])


def file_hash(file: DataFile, cache_dir: str | Path) -> str:
    """Returns the SHA-256 of a file; for big files it is cached until inode, size or times change.

    Of an object of a store it is the hash of its version, of a member of an archive that of archive and name.
    """
    if isinstance(file, Remote):
        return file.version
    if isinstance(file, Member):
        return _joined([("archive", file_hash(file.archive, cache_dir)), ("member", file.member)])
    path = file
    status = path.stat()
    if status.st_size < CACHED_HASH_BYTES:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    identity = (str(path), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    memory = absolute(cache_dir) / "hashes" / f"{hashlib.sha256(repr(identity).encode()).hexdigest()[:32]}.json"
    if memory.is_file():
        return read_json(memory)["sha256"]
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if time.time() - status.st_mtime > 2:  # a file written just now may change again within one clock tick
        write_json(memory, {"path": str(path), "sha256": digest})
    return digest


def _joined(parts: Iterable[tuple[str, str | None]]) -> str:
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()
