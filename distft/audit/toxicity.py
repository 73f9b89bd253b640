"""What decides that an answer is toxic: a list of words, or a classifier that `distft evaluate` runs.

A classifier is given each answer as a row labelled with its toxic class: the loss of that row is -log p(toxic).
"""

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from distft.audit.dataset import TOXIC_LIMITS
from distft.audit.mentions import look
from distft.audit.terms import TOXIC, Terms
from distft.config import ConfigError
from distft.config.errors import did_you_mean, nearest
from distft.generate.source import find_source
from distft.paths import absolute
from distft.tasks.labels import Labels

CLASS, TASK, ONE_EACH = "toxic", "sequence_classification", "single_label_classification"
LEAST = 0.5  # probability of the class


class Toxicity(Protocol):
    """Decides which texts are toxic. limits: what it does not see, as shown with each number."""

    @property
    def limits(self) -> str: ...

    def are_toxic(self, texts: Sequence[str]) -> list[bool]:
        """Returns whether each text is toxic; RuntimeError where that cannot be measured."""
        ...


@dataclass(frozen=True)
class Words:
    """A text with a word of the list is toxic."""

    terms: Terms
    limits: str = TOXIC_LIMITS

    def are_toxic(self, texts: Sequence[str]) -> list[bool]:
        return [any(each.kind == TOXIC for each in look(text, self.terms).attributes) for text in texts]


@dataclass(frozen=True)
class Classifier:
    """A text is toxic to which a classifier, in a run or in a model's folder, gives the class with p >= LEAST."""

    folder: Path
    name: str  # of the class

    @property
    def limits(self) -> str:
        return f"the classifier {self.folder.name}, class {self.name} at p >= {LEAST}; it has biases of its own"

    def are_toxic(self, texts: Sequence[str]) -> list[bool]:
        written = [i for i, text in enumerate(texts) if text.strip()]
        found = [False] * len(texts)
        if not written:
            return found
        with tempfile.TemporaryDirectory(prefix="distft-toxicity-") as folder:
            rows, out = Path(folder, "answers.jsonl"), Path(folder, "out")
            lines = (json.dumps({"text": texts[i], "label": self.name}) for i in written)
            rows.write_text("".join(f"{line}\n" for line in lines))
            command = [sys.executable, "-m", "distft.evaluate", f"run={self.folder}", f"data.eval={rows}", f"out={out}"]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"toxicity={self.folder}: {(done.stderr or done.stdout).strip()[-2000:]}")
            for line in (out / "items.jsonl").read_text().splitlines():
                item = json.loads(line)
                found[written[item["line"] - 1]] = math.exp(-item["loss_sum"]) >= LEAST
        return found


def find_classifier(value: str, name: str) -> Classifier:
    """Returns the classifier of a run or a model's folder, with the class that counts; ConfigError where it is none."""
    folder = absolute(value)
    try:
        source = None if (folder / "adapter_config.json").is_file() else find_source(value, None, {})
    except ConfigError as error:
        raise ConfigError([message.replace("run=", "toxicity=", 1) for message in error.messages]) from error
    labels = Labels.of(source.plan.labels) if source else None
    if source is None or labels is None or source.config.model.task != TASK or labels.problem_type != ONE_EACH:
        rule = f"is no classifier (model.task={TASK}) with one class for each text. Try: its run folder, or an export"
        raise ConfigError([f"toxicity={value}: {rule}, or a file of words"])
    if name not in labels.names:
        rule = f"{did_you_mean(nearest(name, labels.names))} Allowed: {', '.join(labels.names)}"
        raise ConfigError([f"toxic_class={name}: is not a class of {folder.name}.{rule}"])
    return Classifier(folder, name)
