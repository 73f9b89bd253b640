"""The teacher of a run with loss=distillation: its folder, its content, and the tokenizer that it must share."""

from pathlib import Path

from distft.config import Config, ConfigError
from distft.config.model_folder import facts_of, wrong_model
from distft.data.hub import NotFetched, local_folder
from distft.data.key import tokenizer_dir
from distft.data.tokenize import vocabulary_of
from distft.model_check.verdict import read_verdict, verdict_errors
from distft.run import Plan
from distft.tasks import load_task
from distft.tensors.weight_files import content_hash, weight_errors


def teacher_of(config: Config, own: Plan | None) -> tuple[str | None, str | None]:
    """Returns the teacher's folder and content hash, None without a teacher or before it is fetched.

    ConfigError where it is unusable, has another tokenizer than the student, or is not the one of `own`, the frozen
    plan. A run whose teacher is gone continues with what it has read.
    """
    folder = teacher_folder(config)
    if own and own.teacher_hash and config.loss.teacher and (folder is None or not folder.is_dir()):
        return own.teacher_dir, own.teacher_hash
    if folder is None:
        return None, None
    if errors := wrong_teacher(config):
        raise ConfigError(errors)
    hashed = content_hash(folder)
    if own and own.teacher_hash and hashed != own.teacher_hash:
        rule = "its files have changed since the run began. Try: the original folder, another name"
        raise ConfigError([f"loss.teacher={folder}: {rule}, or checkpoint.allow_change=[loss.teacher]"])
    return str(folder), hashed


def teacher_folder(config: Config) -> Path | None:
    """Returns the folder of the teacher; None without one, and before it is fetched."""
    if config.loss.teacher is None:
        return None
    try:
        return local_folder(config.loss.teacher, None, config.cache_dir)
    except NotFetched:
        return None


def wrong_teacher(config: Config) -> list[str]:
    """Returns what keeps the teacher's folder from being a teacher of this student."""
    folder, task = teacher_folder(config), load_task(config.model.task)
    if folder is None:
        return []
    errors = list(wrong_model(folder, task=task))
    errors = errors or list(weight_errors(folder, facts_of(folder), config.data.max_length, None))
    errors = errors or list(verdict_errors(folder, config.cache_dir, task.name))
    errors = [error.replace("model.path=", "loss.teacher=") for error in errors]
    try:
        return errors or other_tokens(folder, tokenizer_dir(config))
    except ValueError as error:
        return [f"loss.teacher={folder}: {error}"]
    except NotFetched:
        return []


def other_tokens(teacher: Path, student: Path | None) -> list[str]:
    """Returns how the teacher's tokenizer differs from the student's; nothing where each token has the same id."""
    if student is not None and teacher.resolve() == student.resolve():
        return []
    theirs, own = vocabulary_of(teacher), vocabulary_of(student)
    for number, token in sorted(own.items()):
        if theirs.get(number) != token:
            there = f"{theirs[number]!r}" if number in theirs else "missing"
            rule = "a teacher's probabilities are of its own tokens. Try: a teacher of the same family of models"
            which = f"token {number} is {there} in its tokenizer and {token!r} in the student's"
            return [f"loss.teacher={teacher}: {which}; {rule}"]
    return []


def is_teacher_checked(config: Config) -> bool:
    """Returns whether the teacher, if there is one, is here and has been checked as a base model is."""
    folder = teacher_folder(config)
    if config.loss.teacher is None or folder is None:
        return config.loss.teacher is None
    return read_verdict(folder, config.cache_dir, config.model.task) is not None
