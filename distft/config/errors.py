"""What a wrong config raises, with all its errors at once, and the nearest valid choice of each."""

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

ALIKE = 0.6  # likeness from which a word may be meant; difflib's own cutoff for close matches
SURELY = 0.8  # the same for a key of other choices, or of another group than a typed one that exists


class ConfigError(Exception):
    """All that is wrong with a config; each message has the key, its value, the rule and the nearest valid choice."""

    def __init__(self, messages: Iterable[str]) -> None:
        self.messages = list(dict.fromkeys(messages))
        super().__init__("\n".join(self.messages))


class Unavailable(RuntimeError):
    """Something outside that the config rightly names cannot be had now; one line, the same command may work later."""


# Keys of other trainers, and what they are called here.
OURS = {
    "learning_rate": "optimizer.lr",
    "adam_beta1": "optimizer.betas",
    "adam_beta2": "optimizer.betas",
    "adam_epsilon": "optimizer.eps",
    "optim": "optimizer=adamw",
    "lr_scheduler_type": "schedule=cosine",
    "lr_scheduler": "schedule=cosine",
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
    "early_stopping_patience": "eval.early_stopping.patience",
    "metric_for_best_model": "eval.metric",
    "eval_on_start": "eval.at_ends",
    "load_best_model_at_end": "checkpoint.save_best",
    "save_best_only": "checkpoint.save_best",
    "save_best_model": "checkpoint.save_best",
    "batch_size": "train.micro_batch_size",
    "micro_batch_size": "train.micro_batch_size",  # not eval's
    "micro_batch_size_per_device": "train.micro_batch_size",
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
    "fp16": "train.precision",
    "dtype": "train.precision",
    "torch_dtype": "train.precision",
    "mixed_precision": "train.precision",
    "stage": "model.task",
    "template": "data.chat_template",
    "max_samples": "data.split",  # train[:1000]
    "max_train_samples": "data.split",
    "ddp_timeout": "launcher.hang_seconds",
    "nccl_timeout": "launcher.hang_seconds",
    "neftune_noise_alpha": "train.neftune_alpha",
    "label_smoothing_factor": "loss.label_smoothing",
    "max_seq_length": "data.max_length",
    "max_seq_len": "data.max_length",
    "seq_length": "data.max_length",
    "sequence_len": "data.max_length",
    "cutoff_len": "data.max_length",
    "sample_packing": "data.packing",
    "group_by_length": "data.packing",  # unequal rows cost no padding
    "dataset_num_proc": "data.num_proc",
    "preprocessing_num_workers": "data.num_proc",
    "dataset": "data.train",
    "datasets": "data.train",
    "dataset_name": "data.train",
    "dataset_path": "data.train",
    "train_file": "data.train",
    "validation_file": "data.eval",
    "validation_split": "data.eval",
    "val_set_size": "data.eval",  # below 1: a share
    "test_size": "data.eval",
    "model_name_or_path": "model.path",
    "pretrained_model_name_or_path": "model.path",
    "model_name": "model.path",
    "base_model": "model.path",
    "tokenizer_name": "model.tokenizer",
    "attn_implementation": "model.attention",
    "flash_attention": "model.attention",
    "use_peft": "tuning=lora",
    "peft": "tuning=lora",
    "lora": "tuning=lora",
    "adapter": "tuning=lora",
    "load_in_4bit": "tuning=qlora",
    "quantization_bit": "tuning=qlora",
    "qlora": "tuning=qlora",
    "finetuning_type": "tuning=lora",
    "r": "tuning.rank",
    "lora_r": "tuning.rank",
    "lora_rank": "tuning.rank",
    "lora_alpha": "tuning.alpha",
    "lora_dropout": "tuning.dropout",
    "lora_target": "tuning.target_modules",
    "lora_target_modules": "tuning.target_modules",
    "lora_target_linear": "tuning.target_modules",
    "fsdp": "strategy=fsdp",
    "deepspeed": "strategy=zero2",
    "zero_stage": "strategy=zero2",
    "output_dir": "runs_dir",
    "run_name": "name",
    "report_to": "tracker=wandb",
    "wandb_project": "tracker.wandb.project",
    "save_steps": "checkpoint.every_steps",
    "save_total_limit": "checkpoint.keep",
    "resume_from_checkpoint": "checkpoint.resume",
    "eval_steps": "eval.every_steps",
    "evals_per_epoch": "eval.every_steps",
    "saves_per_epoch": "checkpoint.every_steps",
    "nproc_per_node": "launcher.processes_per_node",
    "num_processes": "launcher.processes_per_node",
    "num_gpus": "launcher.processes_per_node",
    "gpus": "launcher.processes_per_node",
    "nnodes": "launcher.nodes",
    "num_nodes": "launcher.nodes",
    "save_strategy": "checkpoint.every_steps",
    "eval_strategy": "eval.every_steps",
    "evaluation_strategy": "eval.every_steps",
    "dataset_text_field": "data.fields",
    "remove_unused_columns": "data.ignore_fields",
}

_LOGGED = "metrics.jsonl and the trackers have every step"
_UPLOADED = "nothing is uploaded. Try: hf upload, with the run's folder final"
# Keys of other trainers that have no counterpart, with what to do instead.
NOT_OURS = {
    "load_in_8bit": "weights are quantized to 4 bits only. Try: tuning=qlora",
    "logging_steps": _LOGGED,
    "logging_strategy": _LOGGED,
    "log_every": _LOGGED,
    "plot_loss": "report.html has the curves",
    "tf32": "products of fp32 stay in fp32. Try: train.precision=bf16",
    "push_to_hub": _UPLOADED,
    "hub_model_id": _UPLOADED,
    "overwrite_output_dir": "the same command continues a run. Try: another name=NAME for a new one",
    "do_train": "distft launch always trains. Try: distft evaluate for an evaluation alone",
    "do_eval": "rows to evaluate on are enough. Try: data.eval=0.1",
    "dataloader_num_workers": "rows are tokenized once, before the run. Try: data.num_proc",
}


def likeness(word: str, other: str) -> float:
    """Returns from 0 to 1 how alike two words are, case aside."""
    return SequenceMatcher(None, word.casefold(), other.casefold()).ratio()


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Returns the choice that is most like `word`, the first by name of equal ones; None when none is alike."""
    ranked = sorted((-likeness(word, choice), choice) for choice in choices)
    return ranked[0][1] if ranked and -ranked[0][0] >= ALIKE else None


def nearest_key(key: str, known: Sequence[str], others: Sequence[str] = ()) -> str | None:
    """Returns the dotted key that `key` most likely meant, also when it stands in another group.

    known: the keys that the config can have. others: keys it could have with other choices, where no known one is
    called the same or is alike in its own group.
    """
    group, _, last = key.rpartition(".")
    ours = OURS.get(last, "")
    if ours in known or ours in others or "=" in ours:
        return ours
    names, of_others = _by_name(known), _by_name(others)
    if last in names:
        found = names[last]
    elif meant := nearest(last, _in_group(known, group)):
        found = names[meant]
    elif last in of_others:
        found = of_others[last]
    elif (meant := nearest(last, _in_group(others, group))) and likeness(last, meant) >= SURELY:
        found = of_others[meant]
    elif (meant := nearest(last, names)) and (not _in_group(known, group) or likeness(last, meant) >= SURELY):
        found = names[meant]
    else:
        return None
    return min(found, key=lambda path: (-likeness(key, path), path))


def _by_name(keys: Sequence[str]) -> dict[str, list[str]]:
    """Returns the dotted keys by their last parts."""
    names: dict[str, list[str]] = {}
    for path in keys:
        names.setdefault(path.rpartition(".")[2], []).append(path)
    return names


def _in_group(keys: Sequence[str], group: str) -> list[str]:
    return [path.rpartition(".")[2] for path in keys if path.rpartition(".")[0] == group]


def did_you_mean(word: str | None) -> str:
    """Returns the end of an error message that offers `word`, or nothing."""
    return f" Did you mean {word}?" if word else ""
