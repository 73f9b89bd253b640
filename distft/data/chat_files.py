"""Chat files of a config's rows, for a model that is trained elsewhere: OpenAI's fine-tuning JSONL.

Rows are read and checked as `distft prepare` does, without a tokenizer, and the same rows are held out.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO, cast

from distft.config import Config, ConfigError
from distft.data.example import BadField
from distft.data.formats import form_of
from distft.data.formats.openai import row_of
from distft.data.key import eval_fraction, has_eval_rows, template_text
from distft.data.pipeline import RowPipeline, content_id, split_position
from distft.data.prompt_template import PromptTemplate
from distft.data.render import PlainRenderer

FEWEST = 10  # training rows that OpenAI takes
SHOWN = 5  # bad rows in a message


@dataclass(frozen=True)
class ChatFile:
    """One file of rows."""

    path: Path
    rows: int
    sha256: str


@dataclass(frozen=True)
class ChatFiles:
    """The files of a run. bad: rows that OpenAI would refuse, in dropped.jsonl."""

    train: ChatFile
    eval: ChatFile | None
    bad: int


@dataclass(frozen=True)
class _Row:
    place: str
    identity: str
    value: Any  # as OpenAI's format has it; None for a bad row
    reason: str = ""


def write_chats(config: Config, folder: Path) -> ChatFiles:
    """Writes train.jsonl, eval.jsonl and dropped.jsonl; ConfigError for wrong sources, too many bad or too few rows."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{name}.jsonl" for name in ("train", "eval", "dropped")}
    fraction, seed = eval_fraction(config.data), config.data.split_seed
    counts, shown = dict.fromkeys(files, 0), []
    try:
        with files["train"].open("w") as train, files["eval"].open("w") as held_out, files["dropped"].open("w") as bad:
            outputs: dict[str, TextIO] = {"train": train, "eval": held_out, "dropped": bad}
            for key in ("train", "eval") if has_eval_rows(config.data) else ("train",):
                for row in _rows(config, key):
                    where = "dropped" if row.value is None else key
                    if where == "train" and split_position(row.identity, seed) < fraction:
                        where = "eval"
                    value = {"row": row.place, "reason": row.reason} if row.value is None else row.value
                    shown += [f"{row.place}: {row.reason}"] if where == "dropped" and len(shown) < SHOWN else []
                    outputs[where].write(json.dumps(value, ensure_ascii=False) + "\n")
                    counts[where] += 1
    except (ValueError, OSError) as error:
        raise ConfigError([str(error)]) from error
    _check(config, counts, shown)
    eval_file = _file(files["eval"], counts["eval"]) if counts["eval"] else None
    return ChatFiles(_file(files["train"], counts["train"]), eval_file, counts["dropped"])


def _check(config: Config, counts: dict[str, int], shown: list[str]) -> None:
    bad, whole = counts["dropped"], sum(counts.values())
    most = config.data.max_bad_fraction
    if bad > most * whole:
        rule = f"{bad} of {whole} rows are refused by OpenAI's rules, more than data.max_bad_fraction={most}"
        raise ConfigError(["\n    ".join([rule, *shown])])
    if counts["train"] < FEWEST:
        rule = f"has {counts['train']} training rows, and OpenAI takes no fewer than {FEWEST}"
        raise ConfigError([f"data.train={config.data.train}: {rule}. Try: more rows, or a smaller data.eval"])


def _rows(config: Config, key: Literal["train", "eval"]) -> Iterator[_Row]:
    """Yields the rows of data.train or data.eval; ValueError for fields that nothing reads."""
    data = config.data
    template = None
    if data.prompt_template:
        template = PromptTemplate(template_text(data.prompt_template), data.fields, data.format)
    no_tokenizer = cast(Any, None)  # only `rows` needs one
    pipeline = RowPipeline(PlainRenderer(), no_tokenizer, data, config.cache_dir, prompt_template=template)
    (opened,) = pipeline.open(key)
    for raw in (raw for block in opened.blocks for raw in block.rows()):
        place = f"{raw.file}:{raw.line}"
        if raw.value is None:
            yield _Row(place, "", None, str(raw.reason))
            continue
        try:
            value = template(raw.value) if template else raw.value
            form = form_of(opened.forms, value)
            example, unread = form.take(value)
            pipeline.unread.add(unread, place, form)
            yield _Row(place, content_id(example), row_of(example))
        except BadField as error:
            yield _Row(place, "", None, str(error))
    pipeline.unread.refuse()


def _file(path: Path, rows: int) -> ChatFile:
    return ChatFile(path, rows, hashlib.sha256(path.read_bytes()).hexdigest())
