"""What a wrong config raises, with all its errors at once, and the nearest valid choice of each."""

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

ALIKE = 0.6  # likeness from which a word may be meant; difflib's own cutoff for close matches


class ConfigError(Exception):
    """All that is wrong with a config; each message has the key, its value, the rule and the nearest valid choice."""

    def __init__(self, messages: Iterable[str]) -> None:
        self.messages = list(dict.fromkeys(messages))
        super().__init__("\n".join(self.messages))


class Unavailable(RuntimeError):
    """Something outside that the config rightly names cannot be had now; one line, the same command may work later."""


OURS = {
    "learning_rate": "optimizer.lr",
    "adam_beta1": "optimizer.betas",
    "adam_beta2": "optimizer.betas",
    "optim": "optimizer=adamw",
    "lr_scheduler_type": "schedule=cosine",
    "warmup_ratio": "schedule.warmup_steps",  # below 1: a share
    "warmup_fraction": "schedule.warmup_steps",
    "num_warmup_steps": "schedule.warmup_steps",
    "lr_warmup_steps": "schedule.warmup_steps",
    "decay_ratio": "schedule.decay_steps",
    "decay_fraction": "schedule.decay_steps",
    "num_decay_steps": "schedule.decay_steps",
    "lr_decay_steps": "schedule.decay_steps",
    "min_lr_ratio": "schedule.final_fraction",
    "min_lr_rate": "schedule.final_fraction",
    "early_stopping_threshold": "eval.early_stopping.min_delta",
    "eval_on_start": "eval.at_ends",
    "load_best_model_at_end": "checkpoint.save_best",
    "save_best_only": "checkpoint.save_best",
    "save_best_model": "checkpoint.save_best",
    "batch_size": "train.micro_batch_size",
    "per_device_train_batch_size": "train.micro_batch_size",
    "per_device_eval_batch_size": "eval.micro_batch_size",
    "train_micro_batch_size_per_gpu": "train.micro_batch_size",
    "train_batch_size": "train.global_batch_size",
    "gradient_accumulation_steps": "train.global_batch_size",
    "num_train_epochs": "train.epochs",
    "num_epochs": "train.epochs",
    "gradient_clipping": "train.max_grad_norm",
    "gradient_checkpointing": "train.activation_checkpointing",
    "torch_compile": "train.compile",
    "bf16": "train.precision",
    "dtype": "train.precision",
    "max_seq_length": "data.max_length",
    "max_seq_len": "data.max_length",
    "seq_length": "data.max_length",
    "dataset": "data.train",
    "train_file": "data.train",
    "validation_file": "data.eval",
    "model_name_or_path": "model.path",
    "base_model": "model.path",
    "attn_implementation": "model.attention",
    "output_dir": "runs_dir",
    "run_name": "name",
    "save_steps": "checkpoint.every_steps",
    "save_total_limit": "checkpoint.keep",
    "resume_from_checkpoint": "checkpoint.resume",
    "eval_steps": "eval.every_steps",
    "nproc_per_node": "launcher.processes_per_node",
    "num_processes": "launcher.processes_per_node",
    "nnodes": "launcher.nodes",
    "num_nodes": "launcher.nodes",
}


def likeness(word: str, other: str) -> float:
    """Returns from 0 to 1 how alike two words are, case aside."""
    return SequenceMatcher(None, word.casefold(), other.casefold()).ratio()


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Returns the choice that is most like `word`, the first by name of equal ones; None when none is alike."""
    ranked = sorted((-likeness(word, choice), choice) for choice in choices)
    return ranked[0][1] if ranked and -ranked[0][0] >= ALIKE else None


def nearest_key(key: str, known: Sequence[str]) -> str | None:
    """Returns the known dotted key that `key` most likely meant, also when it stands in another group."""
    group, _, last = key.rpartition(".")
    ours = OURS.get(last, "")
    if ours in known or "=" in ours:
        return ours
    names: dict[str, list[str]] = {}
    for path in known:
        names.setdefault(path.rpartition(".")[2], []).append(path)
    here = [path.rpartition(".")[2] for path in known if path.rpartition(".")[0] == group]
    meant = last if last in names else nearest(last, here) or nearest(last, names)
    return min(names[meant], key=lambda path: (-likeness(key, path), path)) if meant else None


def did_you_mean(word: str | None) -> str:
    """Returns the end of an error message that offers `word`, or nothing."""
    return f" Did you mean {word}?" if word else ""
