"""`distft chat`: talk in the terminal with a checkpoint of a run, and with its base model next to it.

It is one process. A line typed is a message; Ctrl-C ends an answer, Ctrl-D the chat. Where the input is not a terminal,
each of its lines is a message.
"""

import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from distft.config import ConfigError, command
from distft.config.command import keywords, usage
from distft.data.example import BadField, Example
from distft.generate.prompts import chat as example_of
from distft.generate.prompts import text_prompt
from distft.generate.settings import Settings, parse, without_stop
from distft.generate.source import BASE, Source, find_text_source
from distft.runtime.logs import silence
from distft.runtime.process import uncollected

KEYS = {
    "run": "the run's folder, or an exported folder",
    "at": "latest (default), best, step-N, or base: the model before training",
    "against": "a second model that answers too: base, best, latest, step-N, or another folder",
    "system": "a system message at the start",
    "max_new_tokens": "tokens of an answer at most (default 512)",
    "temperature": "0 (default): greedy; above: sampled",
    "top_p": "sample from the likeliest tokens that have this probability together (default 1)",
    "top_k": "sample from so many likeliest tokens; 0 (default): all",
    "seed": "of sampling (default 0)",
    "stop": 'a text that ends an answer, or several: ["###", "Q:"]',
    "precision": "auto, fp32 or bf16 (default: the run's)",
}
CLAIM = """Talks in the terminal. Ctrl-C ends an answer, Ctrl-D ends the chat.
Input that is not a terminal has one message a line."""
WORDS = ("latest", "best", BASE)  # of `against`, next to step-N
SIDE_BY_SIDE_COLUMNS = 90  # of a terminal; in a narrower one the second answer follows the first
REPLACEMENT = "\ufffd"  # at the end of a text whose last character has further bytes to come


@dataclass
class Speaker:
    """A model with its own side of the conversation."""

    name: str
    source: Source
    live: Any  # a LiveModel; None until it is loaded
    rules: Any = None
    messages: list[dict[str, str]] = field(default_factory=list)
    turn: int = 0  # a part of the seed: an answer is drawn anew at each turn

    def listen(self, text: str, system: str | None) -> str:
        """Takes a message; returns a note for the user, mostly empty. BadField for one that cannot be rendered."""
        if not self.messages and system and self.remembers:
            self.messages.append({"role": "system", "content": system})
        self.messages.append({"role": "user", "content": text})
        forgotten = 0
        try:
            while self._is_full():
                first = 1 if self.messages[0]["role"] == "system" else 0
                if len(self.messages) - first <= 2:
                    raise BadField("message", f"does not fit into the model's {self.source.positions:,} positions")
                del self.messages[first : first + 2]
                forgotten += 1
        except BadField:
            self.messages.pop()
            raise
        return f"({self.name}: the conversation is too long; its first turn was dropped)" if forgotten else ""

    @property
    def remembers(self) -> bool:
        """Whether there is a chat template; without one each message is a prompt by itself."""
        return self.source.render.renderer.chat_template is not None and not self.source.render.is_plain

    def prompt(self) -> Example:
        """Returns the conversation so far, to be answered."""
        return example_of(self.messages) if self.remembers else text_prompt(self.messages[-1]["content"])

    def _is_full(self) -> bool:
        positions = self.source.positions
        return positions is not None and len(self.source.render(self.prompt())) >= positions

    def speak(self, settings: Settings) -> Iterator[str]:
        """Yields the answer so far, longer each time."""
        from distft.generate.decode import DecodingBatch, Prompt

        token_ids = self.source.render(self.prompt())
        room = (self.source.positions or 2**31) - len(token_ids)
        prompt = Prompt(self.turn, token_ids, min(settings.max_new_tokens, room))
        batch, generated = DecodingBatch([prompt], self.live, self.rules), list[int]()
        while not batch.is_done:
            batch.advance(lambda _, token: generated.append(token))
            kept = generated[:-1] if generated[-1] in self.rules.ends else generated
            text = without_stop(self.source.render.decode(kept), settings.stop)
            yield text if batch.is_done else text.rstrip(REPLACEMENT)

    def remember(self, answer: str) -> None:
        """Ends the turn. An answer that was ended before its first word is left out with its question."""
        self.turn += 1
        if answer.strip():
            self.messages.append({"role": "assistant", "content": answer})
        else:
            self.messages.pop()


def main(arguments: list[str]) -> int:
    """Talks until the input ends; returns 0."""
    given = keywords(arguments, KEYS, required=("run",))
    settings, errors = parse({"max_new_tokens": "512"} | given)
    if errors:
        raise ConfigError(errors)
    speakers = find_speakers(given)
    console = Console(highlight=False)
    print("Loading the model ..." if len(speakers) == 1 else "Loading the models ...", file=sys.stderr)
    silence()
    ctrl_c = CtrlC()
    with loaded(speakers, settings) as ready, ctrl_c.watched():
        console.print(" against ".join(speaker.source.name for speaker in ready), markup=False)
        if sys.stdin.isatty():
            console.print("Ctrl-C ends an answer, Ctrl-D the chat.")
        for text in lines(console, ctrl_c):
            for note in hear(ready, text, given.get("system")):
                console.print(note, markup=False)
            talk(ready, settings, console, lambda: ctrl_c.is_typed)
    return 0


def find_speakers(given: Mapping[str, str]) -> list[Speaker]:
    """Returns the models of the command line, not loaded yet; ConfigError for one that does not exist."""
    changes = {key: given[key] for key in ("precision",) if key in given}
    changes |= {"strategy": "ddp", "launcher.processes_per_node": "1"}
    found = [Speaker(given.get("at", "tuned"), find_text_source(given["run"], given.get("at"), changes), None)]
    other = given.get("against")
    if other:
        is_word = other in WORDS or other.startswith("step-")
        place, at = (given["run"], other) if is_word else (other, None)
        found.append(Speaker(other if is_word else "other", find_text_source(place, at, changes), None))
    return found


@contextmanager
def loaded(speakers: Sequence[Speaker], settings: Settings) -> Iterator[list[Speaker]]:
    """Yields the speakers with their models in the memory of this process."""
    with uncollected():
        from distft.generate.decode import LiveModel, decoding
        from distft.generate.ranks import rules_of
        from distft.inference import load_model
        from distft.runtime.process_group import World, single_process

    def load(speaker: Speaker, opened: ExitStack, world: World) -> Speaker:
        source = speaker.source
        empty = Path(opened.enter_context(TemporaryDirectory()))
        engine = load_model(source.config, source.plan, empty, world, source.adapters)
        live: LiveModel = opened.enter_context(decoding(engine, world.device))
        rules = rules_of(settings, source.ends, source.penalties, source.render.tokenizer)
        return replace(speaker, live=live, rules=rules)

    with single_process() as world, ExitStack() as opened:
        yield [load(speaker, opened, world) for speaker in speakers]


class CtrlC:
    """Whether Ctrl-C was typed since the last line was read; a forward is never cut in two."""

    def __init__(self) -> None:
        self.is_typed = False

    def _note(self, *_: object) -> None:
        self.is_typed = True

    @contextmanager
    def watched(self) -> Iterator[None]:
        before = signal.signal(signal.SIGINT, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def read_line(self, prompt: str) -> str:
        """Returns a line of the input; KeyboardInterrupt when Ctrl-C is typed meanwhile, EOFError at its end."""
        self.is_typed = False
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return input(prompt)
        finally:
            signal.signal(signal.SIGINT, self._note)


def lines(console: Console, ctrl_c: CtrlC) -> Iterator[str]:
    """Yields the messages until the input ends; Ctrl-C at the prompt only drops what was typed."""
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        with suppress(ImportError):
            import readline  # noqa: F401  # history and editing of the line
    while True:
        try:
            text = ctrl_c.read_line("> " if is_terminal else "")
        except EOFError:
            console.print()
            return
        except KeyboardInterrupt:
            console.print("\n(Ctrl-D ends the chat)")
            continue
        if text.strip():
            yield text


def hear(speakers: Sequence[Speaker], text: str, system: str | None) -> list[str]:
    """Gives a message to every speaker; returns notes for the user."""
    notes = []
    for speaker in speakers:
        try:
            notes.append(speaker.listen(text, system))
        except BadField as error:
            notes.append(f"{speaker.name}: {error}. Try: a shorter message")
    return [note for note in notes if note]


def talk(speakers: Sequence[Speaker], settings: Settings, console: Console, is_interrupted: Callable[[], bool]) -> None:
    """Shows the answers as they grow, two of them side by side where the terminal is wide enough."""
    answering = [speaker for speaker in speakers if speaker.messages and speaker.messages[-1]["role"] == "user"]
    wide = console.is_terminal and console.width >= SIDE_BY_SIDE_COLUMNS
    if len(answering) > 1 and wide:
        answers = talk_side_by_side(answering, settings, console, is_interrupted)
    else:
        answers = [talk_alone(each, settings, len(speakers) > 1, is_interrupted) for each in answering]
    for speaker, answer in zip(answering, answers, strict=True):
        speaker.remember(answer)


def talk_alone(speaker: Speaker, settings: Settings, is_named: bool, is_interrupted: Callable[[], bool]) -> str:
    """Prints one answer as it grows and returns it."""
    if is_named:
        print(f"{speaker.name}: ", end="", flush=True)
    shown = ""
    for text in speaker.speak(settings):
        if text.startswith(shown):  # a last character may have been incomplete
            print(printable(text[len(shown) :]), end="", flush=True)
            shown = text
        if is_interrupted():
            print(" (ended)", end="")
            break
    print(flush=True)
    return shown


def talk_side_by_side(
    speakers: Sequence[Speaker], settings: Settings, console: Console, is_interrupted: Callable[[], bool]
) -> list[str]:
    """Shows the answers in columns, a token of each at a time, and returns them."""
    answers = [""] * len(speakers)

    def table() -> Table:
        columns = Table(*[speaker.name for speaker in speakers], expand=True)
        columns.add_row(*[Text(printable(answer)) for answer in answers])
        return columns

    with Live(table(), console=console, refresh_per_second=12, vertical_overflow="visible") as shown:
        for texts in zip_longest(*[speaker.speak(settings) for speaker in speakers]):
            answers = [text if text is not None else answer for text, answer in zip(texts, answers, strict=True)]
            shown.update(table())
            if is_interrupted():
                break
    return answers


def printable(text: str) -> str:
    """Returns the text without control characters: an answer must not move the cursor or change the terminal."""
    return "".join(each for each in text if each in "\n\t" or each.isprintable())


if __name__ == "__main__":
    command(main, help=usage("chat", KEYS, CLAIM))
