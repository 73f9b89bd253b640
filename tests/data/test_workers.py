"""The data stage in several processes, and after a kill."""

import gzip
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distft.config import Config
from distft.data import blocks, json_lines, pipeline, stage, workers
from distft.data.chunks import Chunk
from distft.data.publish import Interrupted
from distft.data.render import TemplateRefused
from distft.data.shards import Rows
from distft.data.stage import Prepared, prepare_data
from distft.data.tokenize import byte_tokenizer
from distft.data.workers import Tasks, Workers

Make = Callable[..., Config]
WriteRows = Callable[..., Path]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "LINES", 16)
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 32)


@pytest.fixture
def workers_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets this process make chunks only after a worker has made one."""
    came, make, done = threading.Event(), workers.make_chunk, Tasks.done

    def noted(self: Tasks, rows: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            came.set()
        done(self, rows)

    def waiting(given: Any, forms: Any, task: Any) -> int:
        assert given.data.num_proc == 1 or came.wait(60)
        return make(given, forms, task)

    monkeypatch.setattr(Tasks, "done", noted)
    monkeypatch.setattr(workers, "make_chunk", waiting)


def rows(count: int) -> list[dict[str, Any]]:
    """Rows of which every tenth is bad, some are cut and some have no token to train on."""
    made: list[dict[str, Any]] = []
    for i in range(count):
        prompt = "long " * 99 if i % 17 == 0 else f"question {i}"
        made.append({"prompt": prompt, "completion": None if i % 10 == 9 else "answer " * (1 + i % 60)})
    return made


def contents(folder: Path) -> dict[str, bytes]:
    """Returns the files of prepared data, without the seconds that it took."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "report.json"}


def counts(prepared: Prepared) -> dict[str, Any]:
    return prepared.report | {"seconds": 0}


def fresh(asked: Config, name: str, **data: Any) -> Prepared:
    """Prepares the rows in a cache of their own."""
    cache = str(Path(asked.cache_dir).parent / name)
    return prepare_data(asked.changed({"cache_dir": cache} | {f"data.{key}": value for key, value in data.items()}))


@pytest.mark.slow
@pytest.mark.usefixtures("workers_first")
def test_one_and_two_processes_write_the_same_bytes(config: Make, write_rows: WriteRows):
    own = str(write_rows(rows(100), "held.jsonl"))
    asked = config(write_rows(rows(700)), eval=own, max_bad_fraction=0.2, overlap="drop")
    one, two = (fresh(asked, f"cache {count}", num_proc=count) for count in (1, 2))
    assert one.folder.name == two.folder.name
    assert contents(one.folder) == contents(two.folder)
    assert counts(one) == counts(two)
    assert one.report["streams"]["train"]["bad"] == 70


@pytest.mark.slow
@pytest.mark.usefixtures("workers_first")
def test_weights_stay_with_their_rows_on_two_processes(config: Make, write_rows: WriteRows):
    weights = [(i % 7) / 4 for i in range(400)]  # 0: no token is trained
    asked = [
        {"messages": [{"role": "user", "content": f"row {i}."}, {"role": "assistant", "content": "yes"}], "weight": w}
        for i, w in enumerate(weights)
    ]
    prepared = fresh(config(write_rows(asked)), "two", num_proc=2)
    tokenizer, found = byte_tokenizer(), {}
    for row in Rows(prepared.folder, "train"):
        number = int(tokenizer.decode(row.input_ids).split("row ")[1].split(".")[0])
        values = np.ones(len(row.input_ids)) if row.weights is None else row.weights
        assert len(set(values[row.trained])) == 1
        found[number] = (float(values[row.trained][0]), row.target_weight)
    targets = len("yes") + 1
    assert found == {i: (w, w * targets) for i, w in enumerate(weights) if w}


@pytest.mark.slow
def test_block_borders_do_not_show_in_the_shards(config: Make, write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch):
    asked = config(write_rows(rows(300)), eval=0.2, max_bad_fraction=0.2)
    many = fresh(asked, "many")
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 10**6)
    one = fresh(asked, "one")
    assert contents(many.folder) == contents(one.folder) and counts(many) == counts(one)


def killed(asked: Config, moment: str, note: Path) -> None:
    """Prepares rows and kills this process at a moment, after a note of its workers."""

    def kill(*_: Any) -> None:
        note.write_text(" ".join(map(str, children())))
        os.kill(os.getpid(), signal.SIGKILL)

    if moment == "while the shards are written":
        stage._closed = kill
    prepare_data(asked, lambda done, _: kill() if moment.isdigit() and done >= int(moment) else None)


@pytest.mark.slow
@pytest.mark.usefixtures("workers_first")
@pytest.mark.parametrize(
    ("num_proc", "moment"), [(1, "1"), (1, "200"), (2, "100"), (1, "while the shards are written")]
)
def test_a_killed_preparation_continues_after_its_finished_part(
    config: Make, write_rows: WriteRows, num_proc: int, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = config(write_rows(rows(300)), eval=0.2, max_bad_fraction=0.2, num_proc=num_proc)
    whole = fresh(asked, "whole", num_proc=1)
    process = multiprocessing.get_context("fork").Process(target=killed, args=(asked, moment, tmp_path / "note"))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    alive = [Path("/proc", number) for number in (tmp_path / "note").read_text().split()]
    assert len(alive) == num_proc - 1
    deadline = time.monotonic() + 30
    while any(path.exists() for path in alive):  # they die with the process that started them
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (work,) = Path(asked.cache_dir, "data").glob(".*.work.*")
    finished = {path.name for path in work.glob("train-*.arrow")}
    assert len(finished) >= 1
    made: list[str] = []
    note_chunks(monkeypatch, made)
    again = prepare_data(asked.changed({"data.num_proc": 1}))
    assert finished.isdisjoint(made) and len(finished) + len(made) == 10
    assert contents(again.folder) == contents(whole.folder) and counts(again) == counts(whole)
    assert not work.exists()


def note_chunks(monkeypatch: pytest.MonkeyPatch, made: list[str]) -> None:
    """Notes the names of the chunks that this process makes from now on."""
    before = workers.write_chunk

    def noted(pipeline: Any, forms: Any, stream: str, block: Any, path: Path) -> Chunk:
        made.append(path.name)
        return before(pipeline, forms, stream, block, path)

    monkeypatch.setattr(workers, "write_chunk", noted)


def children() -> list[int]:
    """Returns the worker processes of this process."""
    listed = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True
    )
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if "distft.data.workers" in line]


@pytest.mark.slow
@pytest.mark.usefixtures("workers_first")
def test_a_killed_worker_is_reported_and_its_work_is_continued(config: Make, write_rows: WriteRows):
    asked = config(write_rows(rows(300)), max_bad_fraction=0.2, num_proc=2)
    whole = fresh(asked, "whole", num_proc=1)
    killed: list[int] = []

    def kill_one(done: int, share: float | None) -> None:
        if done and not killed:
            killed.append(children()[0])
            os.kill(killed[0], signal.SIGKILL)

    with pytest.raises(Interrupted, match=r"data.num_proc=2: .* was killed by signal 9.*Try: the same command"):
        prepare_data(asked, kill_one)
    assert children() == []
    assert contents(prepare_data(asked).folder) == contents(whole.folder)


@pytest.mark.slow
@pytest.mark.usefixtures("workers_first")
def test_the_first_error_does_not_depend_on_the_processes(config: Make, write_rows: WriteRows, tmp_path: Path):
    template = tmp_path / "own.jinja"  # its turns end without a special token where the question says so
    template.write_text(
        "{% for m in messages %}{{ m.content }}{% if 'stop' in messages[0].content %} no end {{ messages[0].content }}"
        "{% else %}<|im_end|>{% endif %}{% endfor %}"
    )
    made = [dict(row) for row in rows(9) * 40]
    made[200]["prompt"], made[300]["prompt"] = "stop early", "stop late"
    asked = config(write_rows(made), chat_template=str(template))
    for count in (1, 2):
        with pytest.raises(ValueError, match="early"):
            fresh(asked, f"cache {count}", num_proc=count)
        assert not list(Path(asked.cache_dir).parent.glob(f"cache {count}/data/.*.work.*"))
    assert issubclass(TemplateRefused, ValueError)


@pytest.mark.slow
def test_a_worker_imports_no_torch():
    program = "import distft.data.workers, sys; print(*({'torch', 'datasets'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_second_preparation_reads_no_row(config: Make, write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch):
    asked = config(write_rows(rows(50)), max_bad_fraction=0.2)
    first = prepare_data(asked)
    monkeypatch.setattr(pipeline, "source_parts", lambda source: pytest.fail("rows were read again"))
    assert prepare_data(asked.changed({"data.num_proc": 2})).folder == first.folder


def test_a_small_data_set_starts_no_process(config: Make, write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Workers, "_start", lambda self: pytest.fail("a process was started"))
    prepared = prepare_data(config(write_rows(rows(200)), max_bad_fraction=0.2))
    assert len(Rows(prepared.folder, "train")) == 169


@pytest.mark.slow
def test_nobody_waits_for_a_worker_that_imports(config: Make, write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workers, "PROGRAM", "import time; 'distft.data.workers'; time.sleep(30); exit(1)")
    seen: list[int] = []
    asked = config(write_rows(rows(200)), max_bad_fraction=0.2, num_proc=2)
    prepared = prepare_data(asked, lambda *_: seen.append(len(children())))
    assert len(Rows(prepared.folder, "train")) == 169
    assert seen == [1] * 8 and children() == []  # before the first block, and after each


def test_the_error_of_a_source_ends_both_processes(config: Make, tmp_path: Path):
    file = tmp_path / "rows.jsonl.gz"
    lines = "".join(f"{json.dumps(row)}\n" for row in rows(400))
    file.write_bytes(gzip.compress(lines.encode())[:-20])
    for count in (1, 2):
        with pytest.raises(RuntimeError, match=r"rows\.jsonl\.gz"):
            fresh(config(file, max_bad_fraction=0.2), f"cache {count}", num_proc=count)
        assert children() == []
