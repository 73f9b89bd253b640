"""`distft runs du` and `rm`: what runs take on the disk, and that nothing in use is deleted."""

import json
import os
import time
from pathlib import Path

import pytest

from distft.config import ConfigError
from distft.run import RunFolder, write_json
from distft.runs.__main__ import main
from distft.runs.disk import size_in_words, sizes
from distft.runtime.disk import alone
from tests.support.fake_run import freeze

SIZE = 1 << 20


def stored(folder: Path, state: str = "completed") -> RunFolder:
    """Returns a run with a checkpoint of a MiB, and a model that shares its file."""
    run = freeze(folder)
    run.write_status(state=state, exit_code=0, step=5)
    saved = run.checkpoints / "step-00000005"
    saved.mkdir(parents=True)
    (saved / "data.bin").write_bytes(os.urandom(SIZE))
    run.final.mkdir()
    os.link(saved / "data.bin", run.final / "model.safetensors")
    return run


def test_a_file_with_two_names_is_counted_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = stored(tmp_path / "runs" / "one")
    used = sizes(run)
    assert used["checkpoints"] + used["final"] == SIZE
    assert 0 < used["other"] < SIZE and used["eval"] == used["logs"] == 0
    stored(tmp_path / "runs" / "sweep" / "000-lr=1")
    assert main(["du", f"runs_dir={run.path.parent}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"one", "sweep/000-lr=1"} and found["one"] == used
    assert main(["du", f"runs_dir={run.path.parent}"]) == 0
    assert "2.0 MiB in 2 runs of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (2**40 * 3000, "3000.0 TiB")]
)
def test_a_size_in_words(size: int, text: str):
    assert size_in_words(size) == text


def test_rm_deletes_a_run_and_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    runs = [stored(tmp_path / "runs" / name) for name in ("one", "two")]
    assert main(["rm", str(runs[0].path), "yes=true"]) == 0
    assert os.listdir(tmp_path / "runs") == ["two"], "and nothing is left over"
    assert f"{runs[0].path}: all of it, 1.0 MiB, deleted" in capsys.readouterr().out


def test_rm_of_checkpoints_keeps_everything_else(tmp_path: Path):
    run = stored(tmp_path / "runs" / "one")
    assert main(["rm", str(run.path), "only=checkpoints", "yes=true"]) == 0
    assert not run.checkpoints.exists()
    assert (run.final / "model.safetensors").stat().st_size == SIZE and run.config.is_file()


def test_rm_of_a_sweep_deletes_its_jobs(tmp_path: Path):
    folder = tmp_path / "runs" / "sweep"
    jobs = [stored(folder / f"00{i}-lr={i}") for i in range(2)]
    write_json(folder / "sweep_status.json", {})
    with pytest.raises(ConfigError, match=r"is a job of the sweep .* Try: only=checkpoints, or the sweep"):
        main(["rm", str(jobs[0].path), "yes=true"])
    assert main(["rm", str(folder), "only=checkpoints", "yes=true"]) == 0
    assert not any(job.checkpoints.exists() for job in jobs) and all(job.config.is_file() for job in jobs)
    assert main(["rm", str(folder), "yes=true"]) == 0
    assert not folder.exists()


def test_rm_asks_nobody_without_a_terminal(tmp_path: Path):
    run = stored(tmp_path / "runs" / "one")
    with pytest.raises(ConfigError, match=r"nobody is asked here before it is deleted. Try: yes=true"):
        main(["rm", str(run.path)])
    assert run.config.is_file()


@pytest.mark.parametrize(("answer", "code"), [("n\n", 1), ("\n", 1), ("", 1), ("y\n", 0)])
def test_rm_asks_on_a_terminal(tmp_path: Path, answer: str, code: int, monkeypatch: pytest.MonkeyPatch):
    run = stored(tmp_path / "runs" / "one")
    read, write = os.openpty()
    asked: list[str] = []

    def reply(question: str) -> str:
        asked.append(question)
        if not answer:
            raise EOFError
        return answer

    with open(write, "r+b", buffering=0) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", reply)
        assert main(["rm", str(run.path)]) == code
    os.close(read)
    assert asked == [f"{run.path}: all of it, 1.0 MiB (completed, step 5). Delete for good? [y/N] "]
    assert run.path.exists() == bool(code)


def test_rm_refuses_what_is_in_use_and_deletes_nothing_then(tmp_path: Path):
    free, locked, fresh = (stored(tmp_path / "runs" / name) for name in ("free", "locked", "fresh"))
    fresh.write_status(state="running")
    with alone(locked.path / ".lock") as held, pytest.raises(ConfigError) as caught:
        assert held
        main(["rm", *(str(run.path) for run in (free, locked, fresh)), "yes=true"])
    assert [message.split(". Try")[0].split(": ", 1)[1][:27] for message in caught.value.messages] == [
        "a launch uses it", f"a process on {fresh.read_status().get('host')} wrote into it"[:27],
    ]  # fmt: skip
    assert all(run.config.is_file() for run in (free, locked, fresh))
    write_json(fresh.status, fresh.read_status() | {"time": time.time() - 600})
    assert main(["rm", *(str(run.path) for run in (free, locked, fresh)), "yes=true"]) == 0
    assert not any(run.path.exists() for run in (free, locked, fresh))


def test_rm_refuses_what_is_no_run_and_a_link(tmp_path: Path):
    run = stored(tmp_path / "runs" / "one")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.jsonl").touch()
    (tmp_path / "runs" / "latest").symlink_to(run.path)
    with pytest.raises(ConfigError) as caught:
        main(["rm", str(tmp_path / "data"), str(tmp_path / "runs" / "latest"), "yes=true"])
    first, second = caught.value.messages
    assert "holds no run and no sweep" in first and f"is a link to {run.path}" in second
    assert (tmp_path / "data" / "rows.jsonl").is_file() and run.config.is_file()


def test_a_disk_that_refuses_is_an_error_with_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = stored(tmp_path / "runs" / "one")

    def refuse(path: Path, other: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("distft.runs.disk.os.replace", refuse)
    with pytest.raises(ConfigError, match=f"run={run.path}: {run.path} cannot be deleted: Permission denied"):
        main(["rm", str(run.path), "yes=true"])
    assert run.config.is_file()
