"""Which files of a folder hold a model's weights, and what their headers say of them, without loading torch.

Layout of a file (huggingface/safetensors): 8 bytes header length, JSON header, then the tensors' bytes, row-major.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from distft.config.model_folder import quantization, text_facts
from distft.tensors.integrity import Damaged, Seal, check_names

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_SAMPLES, _SAMPLE_BYTES = 16, 2**14  # of each file, evenly spread, the beginning of its header among them
WEIGHT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # of an element, by the dtypes that weights are read in
NO_PARAMETER = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")  # buffers in files of older versions
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_QUANTISED = (".qweight", ".qzeros", ".g_idx", ".SCB", ".absmax", "_scale_inv", ".weight_scale", ".weight_packed")
_POSITIONS = ("wpe.weight", "embed_positions.weight", "position_embeddings.weight", "position_embedding.weight")
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")


def weight_files(folder: Path) -> list[str]:
    """Returns the names of the model's files: those of its index, else the single one, else what the listing shows.

    The listing comes last: on a shared disk it may lag, and some folders hold the same weights twice.
    """
    try:
        names = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    except FileNotFoundError:
        names = None
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise Damaged(f"{folder / INDEX} cannot be read: {type(error).__name__}: {error}") from error
    if names is not None:
        check_names(folder / INDEX, names)
        return names
    if (folder / SINGLE).is_file():
        return [SINGLE]
    return sorted(file.name for file in folder.glob("*.safetensors"))


def content_hash(folder: Path) -> str | None:
    """Returns a hash of config.json and the weights, independent of the path; None where a file is missing or damaged.

    It reads the size and _SAMPLES pieces of each weight file: another model of the same shape differs in every piece,
    and hashing every byte of a large model would take minutes on a login node.
    """
    try:
        return _content_hash(folder)
    except (OSError, ValueError, Damaged):
        return None


def _content_hash(folder: Path) -> str:
    digest = hashlib.sha256(json.dumps(json.loads((folder / "config.json").read_text()), sort_keys=True).encode())
    for name in weight_files(folder):
        size = (folder / name).stat().st_size
        digest.update(f"{name} {size} ".encode())
        with (folder / name).open("rb") as file:
            for start in sorted({max(0, size - _SAMPLE_BYTES) * i // (_SAMPLES - 1) for i in range(_SAMPLES)}):
                file.seek(start)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:32]


def read_header(file: Path, seal: Seal | None = None) -> dict[str, Any]:
    """Returns the header of `file` with its own length; Damaged when it is cut off, or not what its seal says."""
    if seal:
        seal.check_size(file)
    size = file.stat().st_size
    with file.open("rb", buffering=0) as handle:
        start = handle.read(8)
        length = int.from_bytes(start, "little")
        if not 0 < length <= min(MAX_HEADER_BYTES, size - 8):
            raise Damaged(f"{file} is damaged: its header claims {length} bytes")
        text = handle.read(length)
    if seal:
        seal.check_header(file, start + text)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{file} is damaged: its header is no JSON") from error
    if not isinstance(header, dict):
        raise Damaged(f"{file} is damaged: its header is no JSON of names")
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if not _is_entry(entry):
            raise Damaged(f"{file} is damaged: its header says of {name} what no tensor can be")
        stop = 8 + length + entry["data_offsets"][1]
        if stop > size:
            raise Damaged(f"{file} is cut off: {name} ends at byte {stop} of {size}")
    return {"length": length, "tensors": header}


def _is_entry(entry: Any) -> bool:
    """Tells whether shape, dtype and place agree: a shape is believed, and memory taken for it, before data is read."""
    try:
        dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        return False
    if not isinstance(shape, list) or not all(type(number) is int and number >= 0 for number in (*shape, start, stop)):
        return False
    size = WEIGHT_BYTES.get(dtype) if isinstance(dtype, str) else None
    return start <= stop and (size is None or prod(shape) * size == stop - start)


def headers(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns tensor -> {dtype, shape, data_offsets} of a model's files; Damaged names one that is not whole."""
    found: dict[str, dict[str, Any]] = {}
    for name in weight_files(folder):
        if not (folder / name).is_file():
            raise Damaged(f"{folder / name} is missing")
        found |= read_header(folder / name)["tensors"]
    return found


def wrong_weights(folder: Path, facts: Mapping[str, Any], max_length: int, tokens: int | None) -> Iterator[str]:
    """Yields what the weight files of `folder` say against training them; each message starts with model.path.

    facts: of its config.json. max_length: tokens of a row. tokens: that the tokenizer has; None: not known here.
    """
    which = f"model.path={folder}:"
    try:
        tensors = headers(folder)
    except Damaged as error:
        yield f"{which} {error}. Try: fetch the folder again"
        return
    if reason := _quantised(tensors, facts):
        yield f"{which} {reason}. Try: the folder that it was quantised from, with weights in 16 or 32 bits"
        return
    facts = text_facts(facts)
    rows = next((shape[0] for name, shape in _shapes(tensors) if name.endswith(_EMBEDDINGS)), facts.get("vocab_size"))
    if tokens is not None and isinstance(rows, int) and tokens > rows:
        yield (
            f"{which} the tokenizer has {tokens:,} tokens, and the model embeddings for {rows:,}. Try: the tokenizer "
            "that belongs to the model (model.tokenizer), or embeddings made larger with resize_token_embeddings"
        )
    places = [(name, shape[0]) for name, shape in _shapes(tensors) if name.endswith(_POSITIONS)]
    stated = [facts[key] for key in ("max_position_embeddings", "n_positions") if isinstance(facts.get(key), int)]
    for name, count in places[:1]:
        most = min([count, *stated])  # some tables have rows more, for padding
        if max_length > most:
            yield (
                f"{which} it has {most:,} learnt positions ({name}), fewer than data.max_length={max_length}. "
                f"Try: data.max_length={most}"
            )


def notes(folder: Path, facts: Mapping[str, Any], max_length: int) -> Iterator[str]:
    """Yields what a user should know of a model that can be trained."""
    if method := quantization(facts):
        yield f"config.json speaks of {method} and the weights are not quantised: quantization_config is left out"
    most = text_facts(facts).get("max_position_embeddings")
    if isinstance(most, int) and 0 < most < max_length:
        yield (
            f"data.max_length={max_length} goes beyond the {most:,} positions that the model was made for "
            "(max_position_embeddings in config.json)"
        )


def _shapes(tensors: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, list[int]]]:
    return ((name, entry["shape"]) for name, entry in tensors.items() if len(entry["shape"]) == 2)


def _quantised(tensors: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any]) -> str | None:
    """Returns which tensor shows that a model is quantised, and how; None for weights as they are trained.

    A quantization_config alone does not: converters leave it behind.
    """
    for name, entry in tensors.items():
        is_matrix = len(entry["shape"]) > 1 and entry["dtype"] not in WEIGHT_BYTES and name.endswith("weight")
        if is_matrix or name.endswith(_QUANTISED):
            how = quantization(facts)
            return f"its weights are quantised{f' ({how})' if how else ''}: {name} is {entry['dtype']}"
    return None
