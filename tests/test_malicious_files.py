"""Files that would run code, lead out of their folder or take all memory: none does, each is refused with a message.

Each plants a canary where it has a way to run something; no canary is ever there.
"""

import gzip
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from distft.checkpoint.choose import candidates
from distft.checkpoint.format import damage_of, hash_of_body, read_index, read_manifest, step_dir, write_manifest
from distft.checkpoint.load import Checkpoint
from distft.config import ConfigError
from distft.config.command import find_run
from distft.config.compose import compose
from distft.config.model_folder import wrong_model
from distft.data.read import UnreadableFile, read_rows
from distft.data.render import TemplateRefused, make_renderer
from distft.data.shards import Rows
from distft.data.tokenize import byte_tokenizer, load_tokenizer
from distft.tensors.integrity import Damaged
from distft.tensors.safetensors import read_header
from distft.tensors.weight_files import weight_files
from tests.support.fake_run import freeze

REFUSED = (Damaged, ConfigError, ValueError, RuntimeError, UnreadableFile, TemplateRefused)
Try = Callable[[Path, Path], Any]  # (folder, canary) -> what refuses; a text or a list of texts are its words


class Runs:
    """What a pickle runs when it is opened."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.canary}'",)


def pickled(canary: Path) -> bytes:
    return pickle.dumps({"state_dict": Runs(canary)})


def zipped(canary: Path) -> bytes:
    """Returns what torch.save would write."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(canary))
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def tensors(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> bytes:
    return json.dumps({"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()


def weights(content: Callable[[Path], bytes]) -> Try:
    """A model's file with other content than tensors."""

    def attempt(folder: Path, canary: Path) -> Any:
        (folder / "model.safetensors").write_bytes(content(canary))
        return read_header(folder / "model.safetensors")

    return attempt


def sparse(folder: Path, canary: Path) -> Any:
    """A header of 200 MB that takes no disk."""
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 200_000_000))
        file.truncate(200_000_100)
    return read_header(folder / "model.safetensors")


def model(config: dict[str, Any] | str, **files: Callable[[Path], bytes]) -> Try:
    """A model's folder."""

    def attempt(folder: Path, canary: Path) -> Any:
        (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
        for name, content in files.items():
            (folder / name.replace("__", ".")).write_bytes(content(canary))
        return list(wrong_model(folder))

    return attempt


def module(canary: Path) -> bytes:
    return f"import os\nos.system(\"touch '{canary}'\")\nclass Own: ...\n".encode()


def own_tokenizer(folder: Path, canary: Path) -> Any:
    (folder / "own.py").write_bytes(module(canary))
    config = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return load_tokenizer(folder)


def index(*names: Any) -> Try:
    def attempt(folder: Path, canary: Path) -> Any:
        content = {"weight_map": {f"w{i}": name for i, name in enumerate(names)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))
        return weight_files(folder)

    return attempt


def template(text: str) -> Try:
    def attempt(folder: Path, canary: Path) -> Any:
        return make_renderer(byte_tokenizer(), text.replace("CANARY", str(canary)))

    return attempt


def checkpoint(*names: str, link: bool = False) -> Try:
    """A checkpoint whose manifest is sealed as it should be, and names other files than its own."""

    def attempt(folder: Path, canary: Path) -> Any:
        place = step_dir(folder / "checkpoints", 3)
        place.mkdir(parents=True)
        outside = folder / "outside.safetensors"
        outside.write_bytes(tensors(entry(), bytes(8)))
        if link:
            (place / names[0]).symlink_to("/etc/passwd")
        files = [{"name": name, "bytes": outside.stat().st_size, "xxh3_128": ["0", "0"]} for name in names]
        write_manifest(place, {"format": 3, "step": 3, "files": files, "tensors": {}})
        return Checkpoint(place)

    return attempt


def manifest(content: Callable[[Path], bytes]) -> Try:
    def attempt(folder: Path, canary: Path) -> Any:
        (folder / "manifest.json").write_bytes(content(canary))
        return read_manifest(folder)

    return attempt


def steps_in_a_pickle(folder: Path, canary: Path) -> Any:
    """The list of checkpoints, next to files as in torch's own checkpoints."""
    step_dir(folder, 3).mkdir(parents=True)
    for name in ("index.json", "step-00000003/.metadata", "step-00000003/optimizer.pt"):
        (folder / name).write_bytes(pickled(canary))
    assert read_index(folder) == [3] and candidates(folder, "auto") == []
    return damage_of(folder)


def a_trainers_folder(folder: Path, canary: Path) -> Any:
    """A checkpoint of another trainer, named by checkpoint.resume."""
    for name in ("optimizer.pt", "rng_state.pth", "scheduler.pt", "training_args.bin", ".metadata"):
        (folder / name).write_bytes(pickled(canary))
    return Checkpoint(folder)


def run(config: str) -> Try:
    def attempt(folder: Path, canary: Path) -> Any:
        found = freeze(folder / "run")
        found.config.write_text(config.replace("CANARY", str(canary)))
        return find_run(str(found.path))

    return attempt


def profile(text: str) -> Try:
    def attempt(folder: Path, canary: Path) -> Any:
        (folder / "site.yaml").write_text(text.replace("CANARY", str(canary)))
        (folder / "rows.jsonl").write_text('{"text": "x"}\n')
        rows = f"data.train={folder / 'rows.jsonl'}"
        return compose(["model.tiny=true", rows, f"launcher.profile={folder / 'site.yaml'}"])

    return attempt


def override(*texts: str) -> Try:
    def attempt(folder: Path, canary: Path) -> Any:
        (folder / "rows.jsonl").write_text('{"text": "x"}\n')
        given = [text.replace("CANARY", str(canary)) for text in texts]
        return compose(["model.tiny=true", f"data.train={folder / 'rows.jsonl'}", *given])

    return attempt


def rows(name: str, content: Callable[[Path], bytes]) -> Try:
    """A data file; what is wrong with a row is its words."""

    def attempt(folder: Path, canary: Path) -> Any:
        (folder / name).write_bytes(content(canary))
        return [found.reason for found in read_rows(folder / name)]

    return attempt


def objects(folder: Path, canary: Path) -> Any:
    """Prepared rows that are a numpy array of objects."""
    file = io.BytesIO()
    np.save(file, np.array([Runs(canary)], dtype=object), allow_pickle=True)
    (folder / "train-00000.arrow").write_bytes(file.getvalue())
    return Rows(folder, "train")


TAG = "!!python/object/apply:os.system [\"touch 'CANARY'\"]"
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
DEEP = b"[" * 200_000

FILES: dict[str, Try] = {
    "a pickle called model.safetensors": weights(pickled),
    "a pickle in a zip called model.safetensors": weights(zipped),
    "a header of 2**63 bytes": weights(lambda _: tensors(b"{}", length=2**63)),
    "a header of no bytes": weights(lambda _: tensors(b"")),
    "a header of 200 MB": sparse,
    "a header that is no JSON": weights(lambda _: tensors(b"{'w': __import__('os')}")),
    "a header that is a list": weights(lambda _: tensors(b"[1, 2, 3]")),
    "a header nested 200,000 times": weights(lambda _: tensors(DEEP)),
    "a tensor that begins before its file": weights(lambda _: tensors(entry(offsets=[-8, 0]), bytes(8))),
    "a tensor of 2**62 numbers in 8 bytes": weights(lambda _: tensors(entry(shape=[2**31, 2**31]), bytes(8))),
    "a tensor of a negative size": weights(lambda _: tensors(entry(shape=[-1, -2]), bytes(8))),
    "a tensor of true numbers": weights(lambda _: tensors(entry(shape=[True, 2]), bytes(8))),
    "a tensor without a place": weights(lambda _: tensors(b'{"w": {"dtype": "F32"}}', bytes(8))),
    "a tensor behind the end": weights(lambda _: tensors(entry(offsets=[8, 16]), bytes(8))),
    "a model in pytorch_model.bin": model(LLAMA, pytorch_model__bin=pickled),
    "a model with code of its own": model(
        {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}},
        own__py=module,
        model__safetensors=lambda _: tensors(entry(), bytes(8)),
    ),
    "a config.json nested 200,000 times": model(DEEP.decode()),
    "a tokenizer with code of its own": own_tokenizer,
    "weights above the folder": index("../../outside.safetensors"),
    "weights at an absolute path": index("/etc/passwd"),
    "a pickle next to weights": index("pytorch_model.bin"),
    "weights whose name is a list": index(["model.safetensors"]),
    "a template that looks for subclasses": template("{{ ''.__class__.__mro__[1].__subclasses__() }}"),
    "a template that imports": template("{{ cycler.__init__.__globals__.os.system(\"touch 'CANARY'\") }}"),
    "a checkpoint of files above it": checkpoint("../../outside.safetensors"),
    "a checkpoint of files anywhere": checkpoint("/etc/passwd"),
    "a checkpoint that is a link out of its folder": checkpoint("rank-00000.safetensors", link=True),
    "a manifest that is a pickle": manifest(pickled),
    "a manifest nested 200,000 times": manifest(lambda _: DEEP),
    "an index that is a pickle": steps_in_a_pickle,
    "another trainer's checkpoint": a_trainers_folder,
    "a run whose config runs a program": run(f"name: {TAG}"),
    "a run whose loss is a program": run("loss:\n  _target_: os.system\n  command: touch 'CANARY'\n"),
    "a run with a program in a list": run("sweep: [{_target_: subprocess.run, args: [touch, CANARY]}]"),
    "a profile that runs a program": profile(f"partition: {TAG}"),
    "an override that is a program": override("loss._target_=os.system", "+loss.command=touch CANARY"),
    "rows that are a pickle": rows("rows.parquet", pickled),
    "rows of a pickle in gzip": rows("rows.jsonl.gz", lambda canary: gzip.compress(pickled(canary))),
    "a row of 256 MB in 1 MB of gzip": rows("rows.jsonl.gz", lambda _: bomb()),
    "a row nested 200,000 times": rows("rows.jsonl", lambda _: DEEP + b"\n"),
    "prepared rows of objects": objects,
}


def bomb() -> bytes:
    """Returns 256 MB of one line, compressed."""
    packed = io.BytesIO()
    with gzip.open(packed, "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(bytes(4 * 2**20))
    return packed.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("what", FILES)
def test_a_malicious_file_is_refused_and_runs_nothing(what: str, tmp_path: Path):
    folder, canary = tmp_path / "given", tmp_path / "canary"
    folder.mkdir()
    try:
        said = FILES[what](folder, canary)
    except REFUSED as error:
        said = str(error)
    words = said if isinstance(said, str) else "; ".join(filter(None, said))
    assert len(words.split()) >= 3, f"{what} was taken: {said!r}"
    assert not canary.exists(), f"{what} ran"


def test_the_set_is_complete_and_the_canary_works(tmp_path: Path):
    assert len(FILES) >= 25
    for i, opens in enumerate(
        (lambda data: pickle.loads(data), lambda data: torch.load(io.BytesIO(data), weights_only=False))
    ):
        canary = tmp_path / f"canary-{i}"
        opens(pickled(canary) if i == 0 else zipped(canary))
        assert canary.exists()
    canary = tmp_path / "yaml"
    yaml.unsafe_load(TAG.replace("CANARY", str(canary)))
    assert canary.exists()


def test_valid_files_are_accepted(tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes(tensors(entry(), bytes(8)))
    assert list(read_header(tmp_path / "model.safetensors")["tensors"]) == ["w"]
    assert weight_files(tmp_path) == ["model.safetensors"]
    body = {"step": 1}
    write_manifest(tmp_path, body)
    assert read_manifest(tmp_path) == body and hash_of_body(body)
    found = freeze(tmp_path / "run")
    found.config.write_text("loss: {_target_: distft.losses.cross_entropy.CrossEntropy}\nsweep: {_target_: null}\n")
    assert find_run(str(found.path)) == found
