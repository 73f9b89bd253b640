"""Data stage, once per content key: rows -> examples -> text -> tokens -> shards.

Each block of rows becomes a chunk, in any number of processes; then the shards are assembled from the chunks in order.
So the bytes do not depend on the processes, and a killed preparation continues after its finished chunks.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from distft.config import Config, ConfigError
from distft.config.data import Data, source_items
from distft.config.errors import Unavailable
from distft.data.chunks import Chunk
from distft.data.classes import UnknownLabel, settle_labels
from distft.data.cleaning.decide import Cleaning, decide, write_cleaning, write_left_out
from distft.data.cleaning.held_out import ExampleOf, drop_leaks
from distft.data.cleaning.options import overlap_action
from distft.data.cleaning.rules.leakage import texts_of_files, texts_of_rows
from distft.data.counts import MALFORMED, MAX_SHOWN, LeftOut, Report, Split, Stream, json_lines
from distft.data.files import DataFile
from distft.data.hub import dataset_commit, fetch
from distft.data.key import Parts, data_dir, eval_fraction, has_eval_rows, hash_of_parts, key_parts
from distft.data.mixing import Selection, count_items, write_selection
from distft.data.pipeline import OpenSource, RowPipeline, make_pipeline
from distft.data.progress import BytesRead, Progress, no_progress
from distft.data.publish import build_once, work_folder
from distft.data.report import refused
from distft.data.shards import ShardWriter
from distft.data.sources import find_sources
from distft.data.stores import is_url, objects
from distft.data.workers import Workers, open_workers
from distft.paths import why_not_writable, without_number
from distft.run import read_json, write_json
from distft.tasks import load_task
from distft.tasks.labels import Labels


@dataclass(frozen=True)
class Written:
    """The splits on disk: counts, files of each split, the labels of the rows, and held-out rows with others."""

    report: Report
    files: dict[str, list[str]]
    labels: Labels | None
    unknown: list[UnknownLabel]


@dataclass(frozen=True)
class Prepared:
    """A folder of prepared data, and its report.json."""

    folder: Path
    report: dict[str, Any]
    reused: bool


def prepare_data(config: Config, progress: Progress = no_progress) -> Prepared:
    """Returns the prepared data of a config, built unless its content key is in the cache."""
    parts = key_parts(config)
    folder = data_dir(config.cache_dir, hash_of_parts(parts))
    with build_once(folder, "manifest.json") as partial:
        if partial is not None:
            with work_folder(folder) as work:
                _fill(partial, work, parts, config, progress)
    return Prepared(folder, read_json(folder / "report.json"), reused=partial is None)


def _fill(folder: Path, work: Path, parts: Parts, config: Config, progress: Progress) -> None:
    started = time.monotonic()
    data = config.data
    with open_workers(data.num_proc) as workers:
        pipeline, tokenizer = make_pipeline(config)
        pipeline = _guarded(pipeline, config)
        keys: tuple[Literal["train", "eval"], ...] = ("eval", "train") if has_eval_rows(data) else ("train",)
        opened = pipeline.open(*keys)
        chunks = _make_chunks(work, pipeline, opened, workers, BytesRead(_files(config, keys)), progress)
    pipeline.unread.refuse()
    pipeline.unread.check_renamed(data.fields)
    cleaning = decide(pipeline.cleaner, chunks["train"], work)
    if has_eval_rows(data):
        written = _write_own_eval(folder, config, chunks, cleaning)
    else:
        forms = opened[-1].forms
        written = _write_fraction(folder, config, cleaning, lambda value: pipeline.example_of(value, forms))
    report, files = written.report, written.files
    write_cleaning(folder, cleaning)
    write_left_out(folder / "dropped.jsonl", cleaning, chunks.get("eval", ()))
    _add_bad_labels(folder, report, written.unknown)
    report.notes = _notes(pipeline, data) + cleaning.decisions.notes
    report.seconds = round(time.monotonic() - started, 3)
    write_json(folder / "report.json", report.as_dict())
    options = {name: value for name, value in data.plain().items() if name not in ("packing", "shards", "num_proc")}
    options |= {"clean": clean} if (clean := parts.get("clean")) else {}
    ends = sorted(tokenizer.convert_tokens_to_ids(list(pipeline.renderer.ends)))
    rendering = {"chat_template": pipeline.renderer.chat_template, "end_token_ids": ends}  # needed for final/
    manifest = {"key": hash_of_parts(parts), "parts": parts, "options": options, "rendering": rendering}
    manifest |= {"vocab_size": len(tokenizer), "files": files}
    manifest |= {"labels": asdict(written.labels)} if written.labels else {}
    write_json(folder / "manifest.json", manifest | {"splits": report.as_dict()["splits"]})


def _notes(pipeline: RowPipeline, data: Data) -> list[str]:
    """Returns remarks for the user that apply to all rows."""
    notes = [
        f"data.ignore_fields: no row has {name}" for name in data.ignore_fields if name not in pipeline.unread.seen
    ]
    if pipeline.renderer.date:
        notes.append(f"the chat template prints the current date: data.seed_date={data.seed_date} is used instead")
    return notes


def _files(config: Config, keys: Sequence[Literal["train", "eval"]]) -> list[DataFile]:
    """Returns the files that are read, in their order; none where a source is not of files."""
    sources = [source for key in keys for source in find_sources(key, config.data, config.cache_dir)]
    return [file for source in sources for file in source.files] if all(each.files for each in sources) else []


def _make_chunks(
    work: Path,
    pipeline: RowPipeline,
    opened: list[OpenSource],
    workers: Workers,
    meter: BytesRead,
    progress: Progress,
) -> dict[str, list[Chunk]]:
    """Returns the chunks of each stream, after making those that `work` does not have."""
    read = 0

    def count(rows: int) -> None:
        nonlocal read
        read += rows
        progress(read, meter.share)

    progress(0, meter.share)
    counted = [replace(each, blocks=meter.counted(each.blocks)) for each in opened]
    chunks = workers.chunks(pipeline, counted, work, count)
    for each in opened:
        for chunk in chunks[each.key]:
            chunk.add_unread(pipeline.unread, each.forms)
            pipeline.renderer.ends.update(chunk.counts["ends"])
    return chunks


def _counted(folder: Path, chunks: dict[str, list[Chunk]]) -> dict[str, Stream]:
    """Returns the counters of each stream, and writes bad_rows.txt."""
    streams = {}
    with (folder / "bad_rows.txt").open("w") as log:
        for name, made in chunks.items():
            streams[name] = Stream.total(chunk.counts["stream"] for chunk in made)
            for chunk in made:
                log.write(chunk.counts["log"])
    return streams


def _write_own_eval(folder: Path, config: Config, chunks: dict[str, list[Chunk]], cleaning: Cleaning) -> Written:
    """Writes both splits from their own sources; counts rows that are in both, and skips them if data.overlap says
    so."""
    data, overlap = config.data, overlap_action(config)
    streams = _counted(folder, chunks)
    held_out: set[str] = set()
    for chunk in chunks["eval"]:
        held_out.update(chunk.rows.column("id").to_pylist())
    masks = []
    for start, chunk in cleaning.starts:
        identities = chunk.rows.column("id").to_pylist()
        kept, leaked = cleaning.kept(start, len(identities)), cleaning.leaked(start, len(identities))
        is_same = kept & np.array([identity in held_out for identity in identities], dtype=bool)
        streams["train"].overlap += int((leaked | is_same).sum())
        if overlap == "drop":
            cleaning.overlap.update((start + np.flatnonzero(is_same)).tolist())
            kept &= ~is_same
        streams["train"].dropped += int((~kept).sum())
        masks.append(kept)
    whole = [np.ones(chunk.batch.num_rows, dtype=bool) for chunk in chunks["eval"]]
    selections = {"train": Selection(cleaning.chunks, masks), "eval": Selection(chunks["eval"], whole)}
    for name, selection in selections.items():
        selection.cap(source_items(getattr(data, name)))
    labels, unknown = settle_labels(load_task(config.model.task).labels, selections)
    report, writers = _report(folder, {name: streams[name] for name in selections}, selections)
    for name, selection in selections.items():
        items = source_items(getattr(data, name))
        counts = count_items(name, items, selection.chunks)
        write_selection(selection, items, counts, writers[name], report.splits[name])
        report.sources += counts
    return Written(report, _closed(writers), labels, unknown)


def _write_fraction(folder: Path, config: Config, cleaning: Cleaning, example_of: ExampleOf) -> Written:
    """Writes each row to the split that its content hash selects; if that leaves eval empty, holds out the nearest.

    Rows of one group are in the split of the first of them. With clean.leakage, training rows that contain held-out
    texts leave training.
    """
    data, fraction = config.data, eval_fraction(config.data)
    streams = _counted(folder, {"train": list(cleaning.chunks)})
    places, masks = cleaning.positions(), []
    for start, chunk in cleaning.starts:
        masks.append(cleaning.kept(start, chunk.batch.num_rows))
        streams["train"].dropped += int((~masks[-1]).sum())
        streams["train"].overlap += int(cleaning.leaked(start, chunk.batch.num_rows).sum())
    items = source_items(data.train)
    kept = Selection(cleaning.chunks, masks)
    kept.cap(items)
    filled = np.concatenate([each[mask] for each, mask in zip(places, kept.masks, strict=True)])
    if fraction and len(filled) and filled.min() >= fraction and filled.min() < filled.max():
        fraction = math.nextafter(float(filled.min()), 1)
    is_held_out = [each < fraction for each in places]
    train = [mask & ~held_out for mask, held_out in zip(kept.masks, is_held_out, strict=True)]
    held = [mask & held_out for mask, held_out in zip(kept.masks, is_held_out, strict=True)]
    is_dropped = overlap_action(config) == "drop"
    leaks = drop_leaks(cleaning, train, held, example_of, is_dropped)
    streams["train"].overlap += leaks
    streams["train"].dropped += leaks * is_dropped
    selections = {"train": Selection(cleaning.chunks, train)}
    selections |= {"eval": Selection(cleaning.chunks, held)} if fraction else {}
    labels, unknown = settle_labels(load_task(config.model.task).labels, selections)
    report, writers = _report(folder, streams, selections)
    report.sources = count_items("train", items, cleaning.chunks)
    once = [item.model_copy(update={"weight": None, "epochs": None}) for item in items]  # a held-out row counts once
    for name, selection in selections.items():
        shares = items if name == "train" else once
        write_selection(selection, shares, report.sources, writers[name], report.splits[name])
    return Written(report, _closed(writers), labels, unknown)


def _add_bad_labels(folder: Path, report: Report, unknown: list[UnknownLabel]) -> None:
    """Counts and lists held-out rows with labels that no training row has, as bad rows."""
    if not unknown:
        return
    with (folder / "bad_rows.txt").open("a") as log, (folder / "dropped.jsonl").open("a") as dropped:
        for each in unknown:
            stream = report.streams.get(each.split, report.streams["train"])
            line = f"{each.file}:{each.line}: {each.reason}"
            stream.bad += 1
            stream.first_bad = [*stream.first_bad, line][:MAX_SHOWN]
            log.write(f"{line}\n")
            dropped.write(json_lines([LeftOut(each.file, each.line, MALFORMED, each.reason)]))


def _report(folder: Path, streams: dict[str, Stream], splits: Iterable[str]) -> tuple[Report, dict[str, ShardWriter]]:
    return Report(streams, {name: Split() for name in splits}), {name: ShardWriter(folder, name) for name in splits}


def _guarded(pipeline: RowPipeline, config: Config) -> RowPipeline:
    """Returns the pipeline with the held-out texts that must not be in the training rows."""
    cleaner = pipeline.cleaner
    if cleaner is None or not cleaner.guards:
        return pipeline
    texts = [texts_of_files(config.clean.leakage.against)]
    if has_eval_rows(config.data):
        texts.append(texts_of_rows(row for block in pipeline.open("eval")[0].blocks for row in block.rows()))
    return replace(pipeline, cleaner=cleaner.guarding(itertools.chain(*texts)))


def _closed(writers: dict[str, ShardWriter]) -> dict[str, list[str]]:
    for writer in writers.values():
        writer.close()
    return {name: writer.files for name, writer in writers.items()}


def ensure_prepared(
    config: Config, progress: Progress = no_progress, check_model: Callable[[], None] = lambda: None
) -> Prepared:
    """Returns the prepared data of a config, after fetching what is remote.

    check_model: called after the model is fetched and before rows are read.
    Raises ConfigError for invalid rows, tokenizer or hub ids, or an exceeded threshold; Unavailable where a later try
    may succeed.
    """
    if why := why_not_writable(Path(config.cache_dir)):
        raise ConfigError([f"cache_dir={config.cache_dir}: {why}. Try: cache_dir= a folder of yours"])
    try:
        fetch_from_hub(config)
        check_model()
        prepared = prepare_data(config, progress)
    except Unavailable:  # not an error of the config
        raise
    except OSError as error:
        raise ConfigError([without_number(error)]) from error
    except (ValueError, RuntimeError) as error:
        raise ConfigError([str(error)]) from error
    if reasons := refused(prepared.report, config.data):
        raise ConfigError([*reasons, *_bad_rows(prepared)])
    return prepared


def fetch_from_hub(config: Config) -> None:
    """Fetches the hub ids of a config at pinned commits; raises RuntimeError on failure."""
    model, cache_dir = config.model, config.cache_dir
    if not model.tiny:
        fetch(model.path, model.revision, cache_dir)
    if model.tokenizer:
        fetch(model.tokenizer, None, cache_dir, weights=False)
    if config.loss.teacher:
        fetch(config.loss.teacher, None, cache_dir)
    fetch_rows(config.data, cache_dir, ("train", "eval"))


def fetch_rows(data: Data, cache_dir: str, names: Sequence[Literal["train", "eval"]]) -> None:
    """Pins the commits of the hub ids and lists the objects of the URLs of data.train or data.eval.

    Raises RuntimeError on failure, ValueError for missing files.
    """
    for item in (item for name in names for item in source_items(getattr(data, name))):
        if is_url(item.path) and not item.path.startswith("file://"):
            objects(item.path, cache_dir, ask=True)
    found = (find_sources(name, data, cache_dir) for name in names)
    for source in itertools.chain.from_iterable(found):
        if source.hub_id:
            dataset_commit(source.hub_id, source.revision, cache_dir, ask=True)


def _bad_rows(prepared: Prepared) -> list[str]:
    """Returns the first malformed rows, and the path of the full list."""
    streams = prepared.report["streams"].values()
    first = [line for stream in streams for line in stream["first_bad"]]
    more = sum(stream["bad"] for stream in streams) - len(first)
    return first + ([f"and {more} more, all in {prepared.folder / 'bad_rows.txt'}"] if more else [])
