"""Model and rows are copied to a node's disk once and atomically, and training does not change."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from distft.data.shards import Rows
from distft.data.tokenize import byte_tokenizer
from distft.models import staging
from distft.models.staging import stage
from distft.run import Plan, RunFolder
from distft.runtime import heartbeat
from distft.runtime.process_group import World
from distft.tensors.integrity import BLOCK
from tests.support.alone import alone
from tests.support.rows import write_rows, write_sums
from tests.support.stage_once import NODES, RANKS_OF_NODE
from tests.support.traced import trace
from tests.support.train_cases import tiny_model
from tests.support.warm import python


def make_plan(model_dir: Path, data_dir: Path) -> Plan:
    counts = dict.fromkeys(("nodes", "processes_per_node", "world", "micro_batch_size", "accumulation", "steps"), 1)
    more = dict.fromkeys(("rows", "eval_rows", "epochs", "tokens", "parameters"), 1)
    folders = {"model_dir": str(model_dir), "tokenizer_dir": None, "data_dir": str(data_dir)}
    return Plan(**counts, **more, **folders, estimated=False, memory={})  # pyright: ignore[reportArgumentType]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """A model of two files, one of them of 20 MiB, next to files that no rank needs, and rows of two splits."""
    model_dir, data_dir = tmp_path / "model", write_rows(tmp_path / "rows")
    model_dir.mkdir()
    for name, size in (("a.safetensors", 20 * 2**20), ("b.safetensors", 3000), ("pytorch_model.bin", 5000)):
        (model_dir / name).write_bytes(os.urandom(size))
    weights = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (model_dir / "model.safetensors.index.json").write_text(json.dumps(weights))
    (model_dir / "config.json").write_text("{}")
    files = {split: [f"{split}-00000.arrow"] for split in ("train", "eval")}
    (data_dir / "manifest.json").write_text(json.dumps({"files": files}))
    return make_plan(model_dir, data_dir)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with alone() as world:
        yield world


def staged(plan: Plan, folder: Path, world: World) -> tuple[Path, Path]:
    found = stage(plan, "node_local", str(folder), world)
    return Path(str(found.model_dir)), Path(str(found.data_dir))


def is_copy(copy: Path, original: str | None) -> bool:
    return all(file.read_bytes() == (Path(str(original)) / file.name).read_bytes() for file in copy.iterdir())


@pytest.mark.slow
def test_exactly_the_files_that_ranks_read_are_copied(plan: Plan, tmp_path: Path, world: World) -> None:
    model, rows = staged(plan, tmp_path / "disk", world)
    assert is_copy(model, plan.model_dir) and is_copy(rows, plan.data_dir)
    assert {file.name for file in model.iterdir()} == {
        "config.json", "model.safetensors.index.json", "a.safetensors", "b.safetensors"
    }  # fmt: skip
    assert len(Rows(rows, "train")) == len(Rows(str(plan.data_dir), "train"))
    assert stage(plan, "none", None, world) == plan


@pytest.mark.slow
def test_a_node_copies_each_file_once_for_all_ranks(plan: Plan, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for node in range(NODES):
        (out / f"node-{node}").mkdir(parents=True)
    (tmp_path / "plan.json").write_text(json.dumps(asdict(plan)))
    command = [python(), "-m", "tests.support.stage_once", str(out), str(tmp_path / "plan.json")]
    calls = [call for call in trace(command, tmp_path / "trace") if call.is_read]
    for source in (Path(str(plan.model_dir)), Path(str(plan.data_dir))):
        for file in source.glob("*[wt]"):  # safetensors are read by those who copy alone, and so are arrow files
            read = sum(call.answer for call in calls if call.path == str(file))
            assert read == NODES * file.stat().st_size
    big = [call.answer for call in calls if call.path.endswith("/model/a.safetensors") and call.answer]
    assert sorted(big) == sorted([BLOCK, 4 * 2**20] * NODES)
    for rank in range(NODES * RANKS_OF_NODE):
        given = json.loads((out / f"{rank}.json").read_text())
        assert given["model_dir"].startswith(str(out / f"node-{rank // RANKS_OF_NODE}"))
        assert is_copy(Path(given["model_dir"]), plan.model_dir)


@pytest.mark.slow
def test_a_truncated_copy_is_not_used(plan: Plan, tmp_path: Path, world: World) -> None:
    child = os.fork()
    if not child:
        die_in_the_middle(Path(str(plan.model_dir)), tmp_path / "disk" / f"distft-{os.getuid()}")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    [left] = (tmp_path / "disk").glob("distft-*/.*.part")
    assert (left / "a.safetensors").stat().st_size == BLOCK
    model, rows = staged(plan, tmp_path / "disk", world)
    assert is_copy(model, plan.model_dir) and is_copy(rows, plan.data_dir) and not left.exists()


def die_in_the_middle(source: Path, root: Path) -> None:
    """Copies one block of the big file and is gone; a forked process has no group, so it names the files itself."""

    def copy(source: Path, file: Any, into: Path) -> None:
        if file[0] == "a.safetensors":
            with (source / file[0]).open("rb") as given, (into / file[0]).open("wb", buffering=0) as cut:
                cut.write(given.read(BLOCK))
            os.kill(os.getpid(), signal.SIGKILL)
        shutil.copy(source / file[0], into)

    try:
        root.mkdir(parents=True)
        staging._copy = copy
        described = staging._listing(str(source), staging._model_files)
        staging.copy_once(source, described[1] if described else [], root)
    finally:
        os._exit(1)


@pytest.mark.slow
def test_a_deleted_copy_is_made_again(plan: Plan, tmp_path: Path, world: World) -> None:
    model, _ = staged(plan, tmp_path / "disk", world)
    (model / "b.safetensors").unlink()
    assert staged(plan, tmp_path / "disk", world)[0] == model and is_copy(model, plan.model_dir)
    assert (model / "b.safetensors").is_file()


@pytest.mark.slow
def test_another_model_at_the_same_path_is_another_copy(plan: Plan, tmp_path: Path, world: World) -> None:
    before, _ = staged(plan, tmp_path / "disk", world)
    file = Path(str(plan.model_dir)) / "b.safetensors"
    file.write_bytes(os.urandom(file.stat().st_size))
    after, _ = staged(plan, tmp_path / "disk", world)
    assert after != before and is_copy(after, plan.model_dir)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_copy_that_does_not_fit_is_reported_with_sizes(plan: Plan, tmp_path: Path, world: World) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("cannot mount here")
    try:
        with pytest.raises(RuntimeError, match=r"0\.01 GiB free, .*/model needs 0\.02 GiB. Try: another launcher"):
            staged(plan, disk, world)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder away needs root")
def test_a_folder_of_another_user_is_refused(plan: Plan, tmp_path: Path, world: World) -> None:
    theirs = tmp_path / f"distft-{os.getuid()}"
    theirs.mkdir()
    os.chown(theirs, 12345, 12345)
    with pytest.raises(RuntimeError, match="belongs to another user"):
        staged(plan, tmp_path, world)


@pytest.mark.slow
def test_the_watchdog_sees_a_copy_grow(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By who copies, at every block, and by who waits for it, as long as it grows."""
    monkeypatch.setattr(heartbeat, "_heart", [])
    heartbeat.begin(tmp_path, 0)

    def beats() -> int:
        reported = heartbeat.read(heartbeat.beat_file(tmp_path, 0))
        assert reported is not None
        return reported.beats

    source = Path(str(plan.model_dir))
    described = staging._listing(str(source), staging._model_files)
    assert described is not None
    before = beats()
    staging.copy_once(source, described[1], tmp_path)
    assert beats() - before >= 20 * 2**20 // BLOCK
    grows = tmp_path / "part"
    grows.mkdir()
    monkeypatch.setattr(staging, "_POLL_SECONDS", 0.01)
    with (tmp_path / "lock").open("w") as theirs, (tmp_path / "lock").open("w") as mine, ThreadPoolExecutor(1) as other:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        looks = iter([*range(5), *[5] * 40])

        def look(_: Path) -> int:
            size = next(looks, None)
            if size is None:
                fcntl.flock(theirs, fcntl.LOCK_UN)
            return size or 5

        monkeypatch.setattr(staging, "_bytes_in", look)
        before = beats()
        staging._wait_for(mine.fileno(), grows)
        assert beats() - before <= 6, "a copy without progress is not reported as work"
        assert beats() > before
        before = beats()
        other.submit(heartbeat.beat).result()
        assert beats() == before, "other activity is not progress of the copy"


@pytest.mark.slow
def test_training_from_copies_is_bitwise_the_same(tmp_path: Path) -> None:
    """The whole command, from a model with files, on two ranks: losses and final weights."""
    model_dir = tmp_path / "model"
    AutoModelForCausalLM.from_config(tiny_model("gpt2").config).save_pretrained(model_dir)
    byte_tokenizer().save_pretrained(model_dir)
    write_sums(tmp_path)
    staging = ["launcher.stage=node_local", f"launcher.stage_dir={tmp_path / 'disk'}"]
    with ThreadPoolExecutor() as pool:
        plain, local = pool.map(lambda words: run(tmp_path, *words), [["plain"], ["local", *staging]])
    losses = [row["loss"] for row in plain.read_metrics()]
    assert len(losses) == 5 and losses == [row["loss"] for row in local.read_metrics()]
    weights, same = load_file(plain.final / "model.safetensors"), load_file(local.final / "model.safetensors")
    assert weights.keys() == same.keys() and all(torch.equal(weights[name], same[name]) for name in weights)
    assert len([*(tmp_path / "disk").glob("distft-*/[!.]*")]) == 2  # a model, and rows


def run(folder: Path, name: str, *overrides: str) -> RunFolder:
    settings = [f"model.path={folder / 'model'}", "model=gpt2", "data.eval=0.2", f"data.train={folder / 'rows.jsonl'}"]
    settings += ["train.epochs=null", "train.max_steps=3", "train.global_batch_size=4", "train.micro_batch_size=2"]
    settings += [f"name={name}", f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}"]
    command = [python(), "-m", "distft.launch", *settings, "launcher.processes_per_node=2", *overrides]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return RunFolder(folder / "runs" / name)
