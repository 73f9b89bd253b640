"""Weight files of a model folder: their names, headers, content hash and errors, without loading torch.

File format (huggingface/safetensors): 8 bytes header length, JSON header, then the tensors' bytes, row-major.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, TypedDict

from distft.config.model_folder import quantization, text_facts
from distft.tensors.integrity import Checksums, Damaged, check_names

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_SAMPLES, _SAMPLE_BYTES = 16, 2**14  # per file, evenly spaced, from the start of its header
WEIGHT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # bytes per element of the supported dtypes
NO_PARAMETER = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")  # buffers that older versions saved
MAX_HEADER_BYTES = 100_000_000  # the limit of the format
_QUANTIZED = (".qweight", ".qzeros", ".g_idx", ".SCB", ".absmax", "_scale_inv", ".weight_scale", ".weight_packed")
_AFTER_PADDING = ("roberta", "camembert")  # in model types whose first position is the one after the padding's
_POSITIONS = ("wpe.weight", "embed_positions.weight", "position_embeddings.weight", "position_embedding.weight")
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")


def weight_files(folder: Path) -> list[str]:
    """Returns the names of the model's weight files: from its index, else the single file, else a directory listing.

    The listing comes last: on a shared filesystem it may be stale, and some folders hold the same weights twice.
    Raises Damaged for an unreadable index.
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


class Entry(TypedDict):
    """One tensor of a safetensors header. data_offsets: its first byte and the one after its last, after the header."""

    dtype: str
    shape: list[int]
    data_offsets: list[int]


class Header(TypedDict):
    """The header of a safetensors file. length: its bytes, without the 8 of the length itself."""

    length: int
    tensors: dict[str, Entry]


def read_header(file: Path, checksums: Checksums | None = None) -> Header:
    """Returns the header of `file`; raises Damaged when it is invalid or its checksum differs."""
    if checksums:
        checksums.check_size(file)
    size = file.stat().st_size
    with file.open("rb", buffering=0) as handle:
        start = handle.read(8)
        length = int.from_bytes(start, "little")
        if not 0 < length <= min(MAX_HEADER_BYTES, size - 8):
            raise Damaged(f"{file} is damaged: its header claims {length} bytes")
        text = handle.read(length)
    if checksums:
        checksums.check_header(file, start + text)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{file} is damaged: its header is not JSON") from error
    if not isinstance(header, dict):
        raise Damaged(f"{file} is damaged: its header is not a JSON object")
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if not _is_entry(entry):
            raise Damaged(f"{file} is damaged: its header has an invalid entry for {name}")
        stop = 8 + length + entry["data_offsets"][1]
        if stop > size:
            raise Damaged(f"{file} is cut off: {name} ends at byte {stop} of {size}")
    return {"length": length, "tensors": header}


def _is_entry(entry: Any) -> bool:
    """Returns whether shape, dtype and offsets agree; memory for the shape is allocated before data is read."""
    try:
        dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        return False
    if not isinstance(shape, list) or not all(type(number) is int and number >= 0 for number in (*shape, start, stop)):
        return False
    size = WEIGHT_BYTES.get(dtype) if isinstance(dtype, str) else None
    return start <= stop and (size is None or prod(shape) * size == stop - start)


def headers(folder: Path) -> dict[str, Entry]:
    """Returns tensor -> its entry in the headers of a model's files; raises Damaged for a corrupt one."""
    found: dict[str, Entry] = {}
    for name in weight_files(folder):
        if not (folder / name).is_file():
            raise Damaged(f"{folder / name} is missing")
        found |= read_header(folder / name)["tensors"]
    return found


def weight_errors(folder: Path, facts: Mapping[str, Any], max_length: int, tokens: int | None) -> Iterator[str]:
    """Yields the reasons why the weights in `folder` cannot be trained; each message starts with model.path.

    facts: of its config.json. max_length: of a row, in tokens. tokens: size of the tokenizer; None: unknown.
    """
    which = f"model.path={folder}:"
    try:
        tensors = headers(folder)
    except Damaged as error:
        yield f"{which} {error}. Try: fetch the folder again"
        return
    if reason := _quantized(tensors, facts):
        yield f"{which} {reason}. Try: the folder it was quantized from, with 16 or 32 bit weights"
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
        most = min([count, *stated])  # some tables have extra rows for padding
        if any(family in str(facts.get("model_type")) for family in _AFTER_PADDING):
            most -= int(facts.get("pad_token_id") or 0) + 1
        if max_length > most:
            yield (
                f"{which} it has {most:,} learnt positions ({name}), fewer than data.max_length={max_length}. "
                f"Try: data.max_length={most}"
            )


def notes(folder: Path, facts: Mapping[str, Any], max_length: int) -> Iterator[str]:
    """Yields remarks for the user on a model that can be trained."""
    if method := quantization(facts):
        yield f"config.json names {method}, but the weights are not quantized: quantization_config is ignored"
    most = text_facts(facts).get("max_position_embeddings")
    if isinstance(most, int) and 0 < most < max_length:
        yield (
            f"data.max_length={max_length} exceeds the {most:,} positions that the model was trained with "
            "(max_position_embeddings in config.json)"
        )


def _shapes(tensors: Mapping[str, Entry]) -> Iterator[tuple[str, list[int]]]:
    return ((name, entry["shape"]) for name, entry in tensors.items() if len(entry["shape"]) == 2)


def _quantized(tensors: Mapping[str, Entry], facts: Mapping[str, Any]) -> str | None:
    """Returns the reason why the weights are quantized, with a tensor as evidence; None for trainable weights.

    A quantization_config alone is no evidence: converters do not remove it.
    """
    for name, entry in tensors.items():
        is_matrix = len(entry["shape"]) > 1 and entry["dtype"] not in WEIGHT_BYTES and name.endswith("weight")
        if is_matrix or name.endswith(_QUANTIZED):
            how = quantization(facts)
            return f"its weights are quantized{f' ({how})' if how else ''}: {name} is {entry['dtype']}"
    return None
