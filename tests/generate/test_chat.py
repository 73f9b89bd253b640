"""`distft chat` talks in a real terminal and through a pipe: turns, a second model, Ctrl-C and Ctrl-D."""

import os
import pty
import re
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from distft.chat import KEYS, CtrlC, Speaker, find_speakers, hear, loaded, main, printable, talk_alone
from distft.config import ConfigError
from distft.generate.settings import Settings
from distft.run import RunFolder
from tests.support.answered import answers, write_lines
from tests.support.warm import python

pytestmark = pytest.mark.slow
SECONDS = 120  # until a loaded machine has imported torch


class Terminal:
    """A process on a pseudoterminal."""

    def __init__(self, *command: str, columns: int = 80) -> None:
        self.seen = ""
        words: list[str] = [python(), *command]
        environment = os.environ | {"COLUMNS": str(columns), "TERM": "xterm", "OMP_NUM_THREADS": "1"}
        self.pid, self.file = pty.fork()
        if self.pid == 0:
            os.execve(words[0], words, environment)

    def type(self, text: str) -> None:
        os.write(self.file, text.encode())

    def read_until(self, text: str) -> str:
        """Returns what was printed since the last call, up to `text`."""
        deadline = time.monotonic() + SECONDS
        while (at := self.seen.find(text)) < 0:
            assert time.monotonic() < deadline, self.seen
            if select.select([self.file], [], [], 1)[0]:
                self.seen += os.read(self.file, 65536).decode(errors="replace")
        found, self.seen = self.seen[:at], self.seen[at + len(text) :]
        return found

    def type_until(self, key: str, text: str) -> None:
        """Types `key` each second until `text` was printed.

        readline prints its prompt before it waits for input, and a signal between the two is noticed at the next key.
        """
        deadline = time.monotonic() + SECONDS
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            self.type(key)
            while text not in self.seen and select.select([self.file], [], [], 1)[0]:
                self.seen += os.read(self.file, 65536).decode(errors="replace")
        self.read_until(text)

    def read_some(self) -> None:
        """Waits until something more was printed."""
        while not self.seen:
            self.seen += os.read(self.file, 65536).decode(errors="replace")

    def end(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)


LONG = ("temperature=100", "seed=2")  # nearly uniform: an end token is one of 260


def test_a_terminal_shows_turns_and_ends_with_ctrl_d(tuned_run: RunFolder) -> None:
    chat = Terminal("-m", "distft.chat", f"run={tuned_run.path}", "at=base", "max_new_tokens=400", *LONG)
    try:
        chat.read_until("Ctrl-C ends an answer, Ctrl-D the chat.")
        chat.read_until("> ")
        chat.type("1 and 1 is\n")
        chat.read_until("1 and 1 is\r\n")
        chat.read_some()
        time.sleep(0.1)  # its answer takes longer
        chat.type("\x03")  # while it answers
        assert " (ended)" in chat.read_until("\n> ")
        chat.type_until("\x03", "(Ctrl-D ends the chat)")  # at the prompt
        chat.read_until("> ")
        chat.type("\x04")
        assert chat.end() == 0
    finally:
        os.close(chat.file)


def test_a_pipe_gives_one_message_a_line(tuned_run: RunFolder, tmp_path: Path) -> None:
    command = [python(), "-m", "distft.chat", f"run={tuned_run.path}", "against=base", "max_new_tokens=6"]
    done = subprocess.run(command, input="3 and 3 is\n\n4 and 4 is\n", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = "run at step-00000003 against run at base\n"
    file = str(write_lines(tmp_path / "one.jsonl", [{"prompt": "3 and 3 is"}]))
    for at, name in ((None, "tuned"), ("base", "base")):
        [row] = answers(tmp_path / name, tuned_run.path, file, at=at, max_new_tokens="6")
        expected += f"{name}: {printable(row['completion'])}\n"
    assert done.stdout.startswith(expected) and len(re.findall("^(?:tuned|base): ", done.stdout, re.MULTILINE)) == 4


def test_a_turn_sees_the_turns_before_it(tuned_run: RunFolder, capsys: Any) -> None:
    with loaded(find_speakers({"run": str(tuned_run.path), "at": "base"}), Settings(max_new_tokens=12)) as [speaker]:
        assert hear([speaker], "3 and 3 is", "Add.") == []
        said = talk_alone(speaker, Settings(max_new_tokens=12), False, lambda: False)
        assert capsys.readouterr().out == f"{printable(said)}\n" and said
        speaker.remember("six")
        assert hear([speaker], "And 4?", "Add.") == []
        prompt = speaker.source.render.decode(speaker.source.render(speaker.prompt()), special=True)
    assert [each["role"] for each in speaker.messages] == ["system", "user", "assistant", "user"]
    assert all(text in prompt for text in ("Add.", "3 and 3 is", "six", "And 4?"))


def test_a_conversation_too_long_loses_its_first_turn(tuned_run: RunFolder) -> None:
    [speaker] = find_speakers({"run": str(tuned_run.path)})
    assert hear([speaker], "a" * 900, None) == []
    speaker.remember("b" * 900)
    [note] = hear([speaker], "c" * 900, None)
    assert "first turn was dropped" in note and [m["content"][0] for m in speaker.messages] == ["c"]
    speaker.remember("")
    assert speaker.messages == [], "an answer that ended before its first word is left out with its question"
    [note] = hear([speaker], "d" * 3000, None)
    assert "does not fit into the model's 2,048 positions" in note and speaker.messages == []


def test_the_second_model_may_be_another_folder(tuned_run: RunFolder) -> None:
    base = tuned_run.path.parents[1] / "base"
    found: list[Speaker] = find_speakers({"run": str(tuned_run.path), "against": str(base)})
    assert [each.name for each in found] == ["tuned", "other"] and found[1].source.name == str(base)
    with pytest.raises(ConfigError, match="at=step-9: no such checkpoint"):
        find_speakers({"run": str(tuned_run.path), "against": "step-9"})


def test_bad_keys_are_refused(tuned_run: RunFolder) -> None:
    with pytest.raises(ConfigError) as caught:
        main([f"run={tuned_run.path}", "temperature=hot"])
    assert caught.value.messages == ["temperature=hot: is a number from 0, greedy, to 100"]
    with pytest.raises(ConfigError, match="Did you mean against"):
        main([f"run={tuned_run.path}", "agianst=base"])
    assert {"run", "at", "against"} <= KEYS.keys()


def test_control_characters_of_an_answer_are_not_printed() -> None:
    assert printable("a\x1b[2Jb\n\tc\x07é") == "a[2Jb\n\tcé"


def test_ctrl_c_between_lines_is_noted_until_the_next_line(monkeypatch: pytest.MonkeyPatch) -> None:
    before, ctrl_c = signal.getsignal(signal.SIGINT), CtrlC()
    monkeypatch.setattr("builtins.input", lambda _: "hello")
    with ctrl_c.watched():
        os.kill(os.getpid(), signal.SIGINT)
        assert ctrl_c.is_typed
        assert ctrl_c.read_line("> ") == "hello" and not ctrl_c.is_typed
        os.kill(os.getpid(), signal.SIGINT)
        assert ctrl_c.is_typed
    assert signal.getsignal(signal.SIGINT) == before
