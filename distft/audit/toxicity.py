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
from distft.config import ConfigError, read_config
from distft.config.command import find_run
from distft.config.errors import did_you_mean, nearest
from distft.tasks.labels import Labels

CLASS, TASK = "toxic", "sequence_classification"
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
    """A text is toxic to which a run of model.task=sequence_classification gives the class with p >= LEAST."""

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
    """Returns the classifier of a run, with the class that counts; ConfigError where there is none."""
    run = find_run(value)
    plan = run.read_plan()
    labels = Labels.of(plan.labels)
    if labels is None or labels.problem_type != "single_label_classification" or read_config(run).model.task != TASK:
        rule = f"is no run of model.task={TASK} with one class for each text. Try: such a run, or a file of words"
        raise ConfigError([f"toxicity={value}: {rule}"])
    if name not in labels.names:
        rule = f"{did_you_mean(nearest(name, labels.names))} Allowed: {', '.join(labels.names)}"
        raise ConfigError([f"toxic_class={name}: is not a class of {run.path.name}.{rule}"])
    return Classifier(run.path, name)
